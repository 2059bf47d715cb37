"""Fused steps: arrays whose memory is stepped in one pass, by the rule itself, which Numba has compiled.

`kernel` compiles, `memory` says what is stepped, `threads` in how many threads. Where Numba is missing, or memory is
not lent, a step is made with the operations of the framework.
"""

import functools
import importlib
import os
from typing import Any

from d2l_adam.fused.threads import num_threads
from d2l_adam.rule import Rule

_choice: bool | None = {"0": False, "1": True}.get(os.environ.get("D2L_ADAM_FUSED", ""))


def set_fused(fused: bool | None) -> None:
    """Choose how the steps of this process are made, in every tab.

    None, as at the start: in one pass over memory wherever that is possible, else with the operations of the
    framework. False: always with these. True: in one pass, or it is an error that says why not. The environment
    variable `D2L_ADAM_FUSED` (0 or 1) chooses from outside.
    """
    if not (fused is None or isinstance(fused, bool)):
        raise ValueError(f"fused is {fused!r}; give True, False, or None for wherever it is possible")
    global _choice
    _choice = fused


def choice() -> bool | None:
    """What `set_fused` has chosen."""
    return _choice


@functools.cache
def missing() -> str | None:
    """Why no step can be fused here, or None."""
    try:
        numba: Any = importlib.import_module("numba")
        importlib.import_module("d2l_adam.fused.kernel")
    except Exception as error:  # one made for another NumPy fails in its own ways
        absent = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        return "Numba is not installed; pip install numba" if absent else f"Numba cannot be imported ({error})"
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None


def facts() -> dict[str, Any]:
    """How steps are made here: `why` they are eager, or by which Numba, in how many threads, and kept where."""
    why = "set_fused(False), or D2L_ADAM_FUSED=0, has chosen so" if _choice is False else missing()
    if why:
        return {"why": why, "numba": None, "threads": None, "cache": None}
    kernel: Any = importlib.import_module("d2l_adam.fused.kernel")
    compiled = kernel.compiled(Rule("adam"), "float32", ())
    return {
        "why": None,
        "numba": kernel.numba.__version__,
        "threads": num_threads(),
        "cache": compiled.stats.cache_path,
    }
