"""Carry on elsewhere: parameters, their averages and the time step in one file that every tab reads.

The file is in the safetensors format: a table of contents, then plain arrays; nothing in it is code. For each
parameter there is `param/NAME`, `v/NAME` and `s/NAME`. The entry `d2l_adam` of its metadata is a JSON
object with the `names` in order, the dtype (`dtypes`) and the number of steps (`steps`) of each, the `rule`
and its `constants` as far as they are known, and the `sha256` of the whole file, computed with zeros in its
place. A bfloat16 parameter is stored as float32, which holds it exactly.

The learning rate is not in the file, nor is anything else that is set when an optimizer is made: schedules
and the like are each framework's own.
"""

import hashlib
import inspect
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from safetensors import numpy as safetensors_of_numpy

from d2l_adam import contract, spec

VERSION = 1
_UNSIGNED = "0" * 64


@dataclass
class Carried:
    """What a run carries elsewhere: made by the chapter's functions below, by native optimizers in their tab."""

    #: For each parameter its array, and its copies on other devices.
    params: list[list[Any]]
    #: Returns `(v, s)` for each of these arrays; makes those that are missing.
    averages: Callable[[], list[list[tuple[Any, Any]]]]
    #: How many steps each parameter has made, and a function that sets it.
    steps: list[int]
    set_steps: Callable[[list[int]], None]
    #: The rule and its constants, as far as they are known.
    rule: str | None
    constants: dict[str, float]
    #: Whether there is one time step for all parameters.
    one_clock: bool


def of_functions(tab, params, states, hyperparams, rule) -> Carried:
    """Return what the chapter's functions carry: their arguments."""
    if not isinstance(hyperparams, dict) or "t" not in hyperparams:
        raise TypeError(f"{tab.NAME}: give the hyperparams of the step too, with its t: {{'lr': 0.01, 't': 1}}")
    if rule is not None and rule not in spec.RULES:
        raise ValueError(f"{tab.NAME}: unknown rule {rule!r}; known: {', '.join(spec.RULES)}")
    numbers = {name: contract.number(tab, name, value) for name, value in hyperparams.items()}
    constants = {name: value for name, value in numbers.items() if name not in ("lr", "t")}
    if rule is not None:
        known = inspect.signature(spec.RULES[rule]).parameters
        constants = {name: known[name].default for name in ("beta1", "beta2", "eps")} | constants
    return Carried(
        params=[[p] for p in params],
        averages=lambda: [[pair] for pair in states],
        steps=[int(numbers["t"]) - 1] * len(params),
        set_steps=lambda steps: hyperparams.update(t=steps[0] + 1) if steps else None,
        rule=rule,
        constants=constants,
        one_clock=True,
    )


def save(tab, file, params, states, hyperparams=None, rule=None):
    """Write parameters, their averages and the time step to `file`, for any tab to `load`.

    `params` is a list, or a dict with a name for each, such as `dict(model.named_parameters())`. `states`
    and `hyperparams` are those of the chapter's functions; `rule`, "adam" or "yogi", is noted with them if
    given. Or `states` is a native optimizer of this tab: an Adam or Yogi, for Gluon its Trainer.

    The file is replaced as a whole: even if the process is killed, the old one or the new one is there.
    Raises ValueError or TypeError with cause and cure, OSError if the file cannot be written.
    """
    names, _, carried = _carried(tab, params, states, hyperparams, rule)
    arrays = {}
    for name, (p, *_), ((v, s), *_) in zip(names, carried.params, _averages(tab, names, carried), strict=True):
        for key, x in (("param", p), ("v", v), ("s", s)):
            value = numpy.ascontiguousarray(tab.asnumpy(x)).reshape(x.shape)
            arrays[f"{key}/{name}"] = value.astype("float32") if value.dtype.name == "bfloat16" else value
    about = {"sha256": _UNSIGNED, "version": VERSION, "names": names}
    about |= {"dtypes": [tab.kind(p)[1] for p, *_ in carried.params], "steps": carried.steps}
    about |= {"rule": carried.rule, "constants": carried.constants}
    content = safetensors_of_numpy.save(arrays, {"d2l_adam": json.dumps(about)})
    digest = hashlib.sha256(content).hexdigest()
    _replace(Path(file).resolve(), content.replace(_UNSIGNED.encode(), digest.encode(), 1))


def load(tab, file, params, states, hyperparams=None, rule=None, axes=None):
    """Read what `save` wrote, in this tab or in another, into the parameters and averages that are here.

    The arguments are those of `save`. Parameters are matched by name if `params` is a dict, else by
    position. `axes` may give, for a name (or a position), the order in which the axes of the array in the
    file become those here: the weight of a dense layer is `(in, out)` in Keras, `(out, in)` in PyTorch
    and Gluon, and `axes={"weight": (1, 0)}` carries it over.

    Raises FileNotFoundError, or ValueError or TypeError with cause and cure, if the file is truncated,
    altered or of another kind, or if names, shapes, dtypes, rule or constants are others than here.
    Then nothing has changed.
    """
    about, arrays = _read(Path(file))
    names, by_name, carried = _carried(tab, params, states, hyperparams, rule)
    where = f"{tab.NAME}: {file}"
    if len(names) != len(about["names"]) or (by_name and set(names) != set(about["names"])):
        raise ValueError(
            f"{where} holds the parameters {about['names']}, here are {names}; "
            "load into the same, or give lists, which are matched by position"
        )
    order = [about["names"].index(name) for name in names] if by_name else range(len(names))
    known = names if by_name else list(range(len(names)))
    if unknown := [key for key in axes or {} if key not in known]:
        raise ValueError(f"{where}: axes are given for {unknown}; known: {known}")
    values = []
    for i, name, (p, *_) in zip(order, names, carried.params, strict=True):
        turn = (axes or {}).get(name if by_name else i)
        row = [arrays[f"{key}/{about['names'][i]}"] for key in ("param", "v", "s")]
        try:
            values.append([x if turn is None else x.transpose(turn) for x in row])
        except (ValueError, TypeError):
            raise ValueError(f"{where}: axes {turn} do not fit {name}, of shape {row[0].shape} there") from None
        here = f"shape {tuple(p.shape)} in {tab.kind(p)[1]}"
        for x in values[-1]:
            if (there := f"shape {x.shape} in {about['dtypes'][i]}") != here:
                raise ValueError(
                    f"{where}: {name} is of {there}, here of {here}; make them alike, or give `axes` to exchange axes"
                )
    if about["rule"] and carried.rule and about["rule"] != carried.rule:
        raise ValueError(f"{where} is of {about['rule']}, here is {carried.rule}; continue with {about['rule']}")
    for name in about["constants"].keys() & carried.constants.keys():
        if about["constants"][name] != carried.constants[name]:
            raise ValueError(
                f"{where} was made with {name} {about['constants'][name]}, here it is {carried.constants[name]}; "
                f"continue with {about['constants'][name]}"
            )
    steps = [about["steps"][i] for i in order]
    if carried.one_clock and len(set(steps)) > 1:
        raise ValueError(f"{where}: the parameters have made {steps} steps, here one number counts for all")
    averages = _averages(tab, names, carried)
    for copies, pairs, (p, v, s) in zip(carried.params, averages, values, strict=True):
        for x, pair in zip(copies, pairs, strict=True):
            tab.fill([x, *pair], [p, v, s])
    carried.set_steps(steps)
    if hyperparams is not None:
        hyperparams |= about["constants"]


def _carried(tab, params, states, hyperparams, rule):
    """The names of the parameters, and what is carried of them."""
    if by_name := hasattr(params, "items"):
        names, params = [str(name) for name in params], list(params.values())
    else:
        params = list(contract.listed(tab, "params", params))
        names = [str(i) for i in range(len(params))]
    if len(set(names)) < len(names):
        raise ValueError(f"{tab.NAME}: the parameters are named {names}; give each a name of its own")
    if isinstance(states, (list, tuple)):
        carried = of_functions(tab, params, states, hyperparams, rule)
    elif not hasattr(tab, "carried"):
        raise TypeError(f"{tab.NAME}: states is {type(states)}; give a list, with a pair (v, s) for each parameter")
    elif hyperparams is not None or rule is not None:
        raise TypeError(f"{tab.NAME}: give no hyperparams and no rule with an optimizer; it has its own")
    else:
        carried = tab.carried(params, states)
    for name, (p, *_) in zip(names, carried.params, strict=True):
        if tab.kind(p)[1] not in contract.HALF + contract.FULL:
            raise TypeError(f"{tab.NAME}: {name} is {tab.kind(p)[1]}; the file holds real parameters only")
    return names, by_name, carried


def _averages(tab, names, carried):
    """The averages of the parameters, once it is known that they are as they should be."""
    averages = carried.averages()
    for params, pairs in zip(zip(*carried.params, strict=True), zip(*averages, strict=True), strict=True):
        contract.arrays(tab, params, None, pairs, names.__getitem__)  # on each device
    return averages


def _read(file):
    """What a file says about itself, and its arrays, if it is as `save` wrote it."""
    content = file.read_bytes()
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header["__metadata__"]["d2l_adam"])
        digest, version = str(about["sha256"]), about["version"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is not a file that `save` of a tab wrote, or it is truncated") from None
    if version != VERSION:
        raise ValueError(f"{file} is of version {version}, this d2l_adam reads {VERSION}; upgrade d2l_adam")
    if hashlib.sha256(content.replace(digest.encode(), _UNSIGNED.encode(), 1)).hexdigest() != digest:
        raise ValueError(f"{file} is damaged: its SHA-256 is not the one that was written into it; save it anew")
    return about, safetensors_of_numpy.load(content)


def _replace(file, content):
    """Put a whole new file where the old one is, or leave the old one."""
    new = file.with_name(f".{uuid.uuid4().hex}")
    try:
        with new.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # the content must be on the disk before its name is
        if file.exists():
            shutil.copymode(file, new)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
