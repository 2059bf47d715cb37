"""Carry on elsewhere: parameters, their state and the time step in one file that every tab reads.

The file is in the safetensors format: a table of contents, then plain arrays; nothing in it is code. For each
parameter there is `param/NAME` and, for each of its rule's state arrays, `STATE/NAME`: `v/NAME` and `s/NAME` for Adam
and Yogi. The entry `d2l_adam` of its metadata is a JSON object with the entries of `_HEADER` below and the `sha256` of
the whole file, computed with zeros in its place. A bfloat16 parameter is stored as float32, which holds it exactly.

The learning rate is not in the file, nor is anything else that is set when an optimizer is made: schedules
and the like are each framework's own.
"""

import contextlib
import hashlib
import json
import os
import reprlib
import stat
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from safetensors import SafetensorError
from safetensors import numpy as safetensors_of_numpy

from d2l_adam import contract, spec
from d2l_adam.interrupt import deferred
from d2l_adam.rule import Rule, constant

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

VERSION = 3  # version 1 was of the states v and s only, and did not name them; 2 did not name the dialect
_UNSIGNED = "0" * 64
_DTYPES = (*contract.HALF, *contract.FULL)


@dataclass
class Carried:
    """What a run carries elsewhere: made by the chapter's functions below, by native optimizers in their tab."""

    #: For each parameter its array, and its copies on other devices.
    params: list[list[Any]]
    #: Returns the state of each of these, as a tuple of arrays; makes those that are missing.
    states: Callable[[], list[list[tuple[Any, ...]]]]
    #: How many steps each parameter has made, and a function that sets it.
    steps: list[int]
    set_steps: Callable[[list[int]], None]
    #: The rule and its constants, as far as they are known.
    rule: Rule | None
    constants: dict[str, float]
    #: Whether there is one time step for all parameters.
    one_clock: bool


def of_functions(tab, params, states, hyperparams, rule) -> Carried:
    """Return what the chapter's functions carry: their arguments."""
    rule = None if rule is None else Rule(rule)
    if not isinstance(hyperparams, dict) or ("t" not in hyperparams and (rule is None or rule.reads_t)):
        raise TypeError(f"{tab.name}: give the hyperparams of the step too, with its t: {{'lr': 0.01, 't': 1}}")
    defaults = {} if rule is None else {name: x.default for name, x in rule.constants.items() if x.default is not None}
    numbers = defaults | {name: contract.number(tab, name, value) for name, value in hyperparams.items()}
    return Carried(
        params=[[p] for p in params],
        states=lambda: [[Rule.states(state)] for state in states],
        steps=[int(numbers.get("t", 1)) - 1] * len(params),
        set_steps=lambda steps: hyperparams.update(t=steps[0] + 1) if steps and "t" in hyperparams else None,
        rule=rule,
        constants={name: value for name, value in numbers.items() if name not in ("lr", "t")},
        one_clock=True,
    )


def save(tab, file, params, states, hyperparams=None, rule=None):
    """Do what `Tab.save` says."""
    names, _, carried = _carried(tab, params, states, hyperparams, rule)
    about = {"sha256": _UNSIGNED, "version": VERSION, "names": names, "state": _state_names(carried)}
    about |= {"dtypes": [tab.kind(p)[1] for p, *_ in carried.params], "steps": carried.steps}
    about |= {"rule": carried.rule and carried.rule.name, "dialect": carried.rule and carried.rule.dialect}
    about["constants"] = carried.constants
    _check_header(tab.name, about)
    arrays = {}
    for places, (p, *_), (state, *_) in zip(_places(about), carried.params, _states(tab, names, carried), strict=True):
        for (place, dtype), x in zip(places.items(), (p, *state), strict=True):
            arrays[place] = numpy.ascontiguousarray(tab.asnumpy(x), dtype).reshape(x.shape)
    content = safetensors_of_numpy.save(arrays, {"d2l_adam": json.dumps(about)})
    digest = hashlib.sha256(content).hexdigest()
    _replace(Path(file), content.replace(_UNSIGNED.encode(), digest.encode(), 1))


def load(tab, file, params, states, hyperparams=None, rule=None, axes=None, convert=False):
    """Do what `Tab.load` says; return the arrays of each parameter, itself first."""
    about, rows = _read(Path(file))
    names, by_name, carried = _carried(tab, params, states, hyperparams, rule)
    where = f"{tab.name}: {file}"
    known, held = (names, about["names"]) if by_name else ([*range(len(names))], [*range(len(about["names"]))])
    if set(known) != set(held):
        raise ValueError(
            f"{where} holds the parameters {about['names']}, here are {names}; "
            "load into the same, or give lists, which are matched by position"
        )
    if unknown := [key for key in axes or {} if key not in known]:
        raise ValueError(f"{where}: axes are given for {unknown}; known: {known}")
    order, values = [held.index(name) for name in known], []
    for i, name, (p, *_) in zip(order, known, carried.params, strict=True):
        turn = (axes or {}).get(name)
        try:
            values.append([x if turn is None else x.transpose(turn) for x in rows[i]])
        except (ValueError, TypeError):
            raise ValueError(f"{where}: axes {turn} do not fit {name}, of shape {rows[i][0].shape} there") from None
        here = f"shape {tuple(p.shape)} in {tab.kind(p)[1]}"
        if (found := f"shape {values[-1][0].shape} in {about['dtypes'][i]}") != here:
            raise ValueError(
                f"{where}: {name} is of {found}, here of {here}; make them alike, or give `axes` to exchange axes"
            )
    known = about["rule"] and carried.rule
    if known and about["rule"] != carried.rule.name and not convert:
        there, here = _called(about["rule"], about["dialect"]), _called(carried.rule.name, carried.rule.dialect)
        how = f", in this tab like({about['dialect']!r})" if about["dialect"] else ""
        raise ValueError(f"{where} is of {there}, here is {here}; continue with {about['rule']}{how}{_CONVERT}")
    state = _state_names(carried)
    if len(about["state"]) != len(state) or (known and about["state"] != state and convert):
        raise ValueError(f"{where} holds the state {about['state']}, here is {state}; continue with the same rule")
    _check_constants(where, about["rule"] if convert else carried.rule or about["rule"], about["constants"])
    for name in () if convert else about["constants"].keys() & carried.constants.keys():
        there, here = about["constants"][name], carried.constants[name]
        if there != here:
            raise ValueError(
                f"{where} was made with {name} {there}, here it is {here}; continue with {there}{_CONVERT}"
            )
    steps = [about["steps"][i] for i in order]
    if carried.one_clock and len(set(steps)) > 1:
        raise ValueError(f"{where}: the parameters have made {steps} steps, here one number counts for all")
    states, filled = _states(tab, names, carried), []
    with deferred():
        carried.set_steps(steps)  # first, as a clock may be too small for them
        for copies, of_copies, row in zip(carried.params, states, values, strict=True):
            for x, state in zip(copies, of_copies, strict=True):
                arrays = [x, *state]
                tab.fill(arrays, row)
                filled.append(arrays)
        if hyperparams is not None and not convert:
            hyperparams |= about["constants"]
    return filled


#: What may be asked for.
_CONVERT = ", or give convert=True, after which the next step is not the one that would have been made"


def _called(rule, dialect):
    return f"{dialect} ({rule})" if dialect else rule


def _carried(tab, params, states, hyperparams, rule):
    """The names of the parameters, and what is carried of them."""
    if by_name := hasattr(params, "items"):
        names, params = [str(name) for name in params], list(params.values())
    else:
        params = list(contract.listed(tab, "params", params))
        names = [str(i) for i in range(len(params))]
    if len(set(names)) < len(names):
        raise ValueError(f"{tab.name}: the parameters are named {names}; give each a name of its own")
    if isinstance(states, (list, tuple)) or states is None:  # None as in the book, for a rule without state
        carried = of_functions(tab, params, [None] * len(params) if states is None else states, hyperparams, rule)
    else:
        carried = tab.carried(params, states)
        if hyperparams is not None or rule is not None:
            raise TypeError(f"{tab.name}: give no hyperparams and no rule with an optimizer; it has its own")
    _check_constants(tab.name, carried.rule, carried.constants)
    for name, (p, *_) in zip(names, carried.params, strict=True):
        if tab.kind(p)[1] not in _DTYPES:
            raise TypeError(f"{tab.name}: {name} is {tab.kind(p)[1]}; the file holds real parameters only")
    return names, by_name, carried


def _check_constants(where, rule, constants):
    """Refuse constants that a rule has not, if it is known; `rule` may be a name."""
    rule = Rule(rule) if isinstance(rule, Rule) or rule in spec.RULES else None
    if rule and (unknown := sorted(constants.keys() - rule.constants.keys())):
        raise ValueError(f"{where}: {rule.name} has no {', '.join(unknown)}; it has {', '.join(rule.constants)}")


def _state_names(carried):
    """What the state arrays of a parameter are called in a file."""
    if carried.rule and "param" not in carried.rule.state:
        return list(carried.rule.state)
    number = max((len(state) for row in carried.states() for state in row), default=0)
    return ["v", "s"][:number] if number < 3 else [f"state{i}" for i in range(number)]


def _states(tab, names, carried):
    """The states of the parameters, once it is known that they are as they should be."""
    states = carried.states()
    for params, rows in zip(zip(*carried.params, strict=True), zip(*states, strict=True), strict=True):
        contract.rows(tab, tuple(_state_names(carried)), params, None, rows, names.__getitem__)  # on each device
    return states


def _read(file):
    """What a file says about itself, and its arrays, if it is as `save` wrote it."""
    content = file.read_bytes()
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header["__metadata__"]["d2l_adam"])
        digest, version = str(about["sha256"]).encode("ascii"), about["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{file} is not a file that `save` of a tab wrote, or it is truncated") from None
    if type(version) is not int or not 1 <= version <= VERSION:
        version = reprlib.repr(version)
        raise ValueError(f"{file} is of version {version}, this d2l_adam reads 1 to {VERSION}; upgrade d2l_adam")
    if hashlib.sha256(content.replace(digest, _UNSIGNED.encode(), 1)).hexdigest().encode() != digest:
        raise ValueError(f"{file} is damaged: its SHA-256 is not the one that was written into it; save it anew")
    if version == 1:
        about["state"] = ["v", "s"]
    if version < 3:
        about["dialect"] = None
    _check_header(f"{file} is damaged", about)
    try:
        arrays = safetensors_of_numpy.load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # a KeyError names a dtype that NumPy has not
        raise ValueError(f"{file} is damaged: safetensors cannot read it ({error})") from None
    rows = []
    for places in _places(about):
        rows.append([arrays.pop(place, _NONE) for place in places])
        for x, (place, dtype) in zip(rows[-1], places.items(), strict=True):
            if (x.dtype, x.shape) != (dtype, shape := rows[-1][0].shape):
                found = f"{x.dtype} of shape {x.shape}"
                raise ValueError(f"{file} is damaged: {place} is {found}, not {dtype} of shape {shape}")
    if arrays:
        raise ValueError(f"{file} is damaged: it holds {sorted(arrays)}, which its names and state do not say")
    return about, rows


_NONE = numpy.empty((), "V0")  # stands for an array that is not there


def _places(about):
    """For each parameter in what order its arrays are called what in a file, and their dtypes there."""
    for name, dtype in zip(about["names"], about["dtypes"], strict=True):
        full = "float32" if dtype in contract.HALF else dtype
        of_states = {f"{state}/{name}": full for state in about["state"]}
        yield {f"param/{name}": "float32" if dtype == "bfloat16" else dtype} | of_states


def _are_names(x, *_):
    return all(isinstance(name, str) for name in x) and len(set(x)) == len(x)


def _is_clock(x):
    return type(x) is int and 0 <= x < 2**53


def _are_constants(x, *_):
    for name, value in x.items():
        is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max  # which NaN is not
        is_name = isinstance(name, str) and name.isidentifier() and name not in ("lr", "t")
        if not (is_name and is_number and constant(name).holds(float(value))):
            return False
    return True


#: The entries of the header: the type of each, a test of it and of the number of parameters, and what it is to be.
_HEADER: dict[str, tuple[Any, Callable[..., bool], str]] = {
    "names": (list, _are_names, "names, all different"),
    "state": (list, lambda x, n: _are_names(x) and "param" not in x, "names, all different, none of them `param`"),
    "dtypes": (list, lambda x, n: len(x) == n and all(y in _DTYPES for y in x), "a real dtype for each parameter"),
    "steps": (list, lambda x, n: len(x) == n and all(map(_is_clock, x)), "a whole number for each parameter"),
    "rule": (str | None, lambda *_: True, "a name or null"),
    "dialect": (str | None, lambda *_: True, "a name or null"),
    "constants": (dict, _are_constants, "the rule's numbers, each in its range, without lr and t"),
}


def _check_header(where, about):
    for entry, (kind, holds, meaning) in _HEADER.items():
        x = about.get(entry)
        if entry not in about or not isinstance(x, kind) or not holds(x, len(about["names"])):
            raise ValueError(f"{where}: {entry} is {reprlib.repr(x)}; it is to be {meaning}")


def _replace(file, content):
    """Put a whole new file where the old one is, or leave the old one."""
    try:
        old = file.stat()  # of what a link leads to
    except FileNotFoundError:
        old = None
    if old and not stat.S_ISREG(old.st_mode):
        raise OSError(f"{file} is there and is no regular file; it is left as it is: give another name")
    file = file.resolve()
    begun = f".d2l_adam-{hashlib.sha256(os.fsencode(file.name)).hexdigest()[:16]}-"
    for left in file.parent.glob(f"{begun}*"):
        with contextlib.suppress(OSError), left.open("rb") as stream:  # one that is still written is locked
            _lock(stream)
            left.unlink()
    new = file.with_name(begun + uuid.uuid4().hex)
    stream = new.open("xb")
    try:
        with contextlib.suppress(OSError):  # some network's folders have no locks
            _lock(stream, wait=True)
        if not new.exists():  # another process has cleared it before it was locked
            return _replace(file, content)
        if old:
            _own(new, old)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())  # the content must be on the disk before its name is
        if not fcntl:
            stream.close()
        new.replace(file)
    finally:
        stream.close()
        new.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Windows opens no folder
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _lock(stream, wait=False):
    """Lock a file, which lasts until it is closed. Raises BlockingIOError if another has locked it, or waits."""
    if fcntl:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _own(file, old):
    """Give a file the owner and the mode of another."""
    new = file.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.chown(file, old.st_uid, old.st_gid)
        except PermissionError:
            owner = f"of user {old.st_uid} and group {old.st_gid}"
            raise PermissionError(f"the file to replace is {owner}, which you cannot keep; delete it first") from None
    file.chmod(stat.S_IMODE(old.st_mode))
