"""What the native optimizers of all frameworks share: a class of a rule, and how it is made, documented and pickled."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from d2l_adam import contract
from d2l_adam.dialects import TABLE, Dialect
from d2l_adam.rule import Rule
from d2l_adam.step import Step, document


class OfRule:
    """Mixed into a framework's own class of optimizers; each class has one rule."""

    #: The rule as steps on the framework's arrays, and the kind of these.
    rule_step: Step
    step_type = Step
    #: What the class calls a constant of the rule, where that is not its own name.
    names: Mapping[str, str] = {}
    rule: Rule
    #: The same with `amsgrad=True`, where that can be asked for.
    amsgrad_step: Step | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "rule_step" in vars(cls):
            cls.rule = cls.rule_step.rule

    def _take_amsgrad(self):
        """Have AMSGrad for the rule of this one optimizer."""
        if self.amsgrad_step is None:
            name = self.rule_step.tab.name
            raise ValueError(f"{name}: amsgrad=True is another rule than this; leave it out, or False")
        self.rule_step, self.rule = self.amsgrad_step, self.amsgrad_step.rule

    def __reduce_ex__(self, protocol):
        """Pickle and copy an optimizer of a class that was made of a rule: by that rule, which has to be importable."""
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *state = reduced
        if "made" not in vars(type(self)):
            return make, args, *state
        return _new, (self.rule_step.tab.optimizer, self.rule), *state


def _new(optimizer, rule):
    cls = optimizer(rule)
    return cls.__new__(cls)


def made(
    base: Any, tab: Any, rule: Rule, lr: str, first: tuple[str, ...], options: Mapping[str, Any], text: str
) -> Any:
    """Return a class of optimizers of `rule`: its arguments are `first`, the learning rate `lr`, constants, `options`.

    Raises TypeError for a rule without a learning rate, which nothing could schedule, and for one without a name.
    """
    if "lr" not in rule.constants:
        raise TypeError(
            f"{tab.name}: the rule {rule.name} takes {', '.join(rule.constants) or 'no constant'} and no lr, which an "
            "optimizer's groups and schedulers set; give it a constant lr, or use it as a function, by step(rule)"
        )
    if not rule.name.isidentifier():
        raise TypeError(f"{tab.name}: the rule {rule.name} has no name; write it with def, to name the class after it")
    name = rule.dialect.partition("(")[0].rpartition(".")[2] if rule.dialect else rule.name
    name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    cls: Any = type(
        name, (base,), {"__module__": f"d2l_adam.{tab.module}", "rule_step": base.step_type(tab, rule), "made": True}
    )
    cls.__doc__ = f"`{rule.dialect or rule.name}` as an optimizer of {tab.module}'s own kind."
    cls.__signature__ = _signature(rule, lr, first, options)
    describe(cls, lr, text)
    return cls


def _signature(rule, lr, first, options):
    kind, empty = inspect.Parameter, inspect.Parameter.empty
    parameters = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in first]
    for name, (default, *_) in rule.constants.items():
        if default is None or (name == "lr" and lr in options):
            default = options.get(lr if name == "lr" else name, empty)
        if name == "lr":
            parameters.insert(len(first), kind(lr, kind.POSITIONAL_OR_KEYWORD, default=default))
        else:
            parameters.append(kind(name, kind.KEYWORD_ONLY, default=default))
    for name, default in options.items():
        if name == "options":
            parameters.append(kind(name, kind.VAR_KEYWORD))
        elif name not in (*rule.constants, lr):
            parameters.append(kind(name, kind.KEYWORD_ONLY, default=default))
    return inspect.Signature(parameters)


def describe(cls: Any, lr: str, text: str) -> None:
    """Give a class the docstring of its arguments: each constant of the rule, with its range, then `text`."""
    lines, parameters = ["Args:"], inspect.signature(cls).parameters
    for name, (_, _, cure) in cls.rule.constants.items():
        argument = lr if name == "lr" else cls.names.get(name, name)
        if argument in parameters:  # torch's Adam has both betas in one
            default = parameters[argument].default
            given = f" (default: {default})" if isinstance(default, float) else ""
            lines.append(f"    {argument} (float): {cure or 'any finite number'}{given}")
    document(cls, cls.rule, "\n".join(lines) + f"\n{text.strip(chr(10))}\n\nThe rule, as it stands in its function:")


def of_library(
    tab: Any, optimizer: Any, library: str, given: Mapping[str, Any], harmless: Collection[str], make: str
) -> tuple[Dialect, dict[str, float]]:
    """Return which row of the table an optimizer of a framework's own is, and the constants of its rule.

    `given` has what it was made with, by name; `harmless` are those that do not change what its state is; `make` says
    what else may be given. Raises TypeError for an optimizer that the table has not, ValueError for what makes it one.
    """
    cls = type(optimizer)
    rows = [row for row in TABLE.values() if row.path == f"{library}.{cls.__name__}"]
    if not rows or not cls.__module__.startswith(library.partition(".")[0] + "."):
        known = sorted({row.path for row in TABLE.values() if row.path.startswith(f"{library}.")})
        raise TypeError(f"{tab.name}: the optimizer is {cls}; give {make}, or {', '.join(known)}")
    nearest = None
    for row in rows:
        ours = {name.partition("[")[0] for name in row.constants.values()}
        odd = []
        for name, x in inspect.signature(cls).parameters.items():
            default = row.options.get(name, x.default)
            if name in given and name not in ours and name not in harmless and given[name] != default:
                odd.append(f"{name}={given[name]}")
        if not odd and len(row.state) == len(row.rule.state):
            values = {name: x.default for name, x in row.rule.constants.items() if name != "lr"}
            for name, there in row.constants.items():
                key, _, place = there.rstrip("]").partition("[")
                if name != "lr" and key in given:
                    values[name] = given[key][int(place)] if place else given[key] or 0.0
            return row, {name: contract.number(tab, name, x) for name, x in values.items()}
        nearest = odd if nearest is None or len(odd) < len(nearest) else nearest
    what = ", ".join(nearest or ()) or "its state"
    raise ValueError(f"{tab.name}: the file has no place for {what} of {cls.__name__}; make it without")


def constants(optimizer: Any) -> dict[str, float]:
    """The constants of an optimizer's rule but the learning rate, as its attributes have them."""
    values = {}
    for name in optimizer.rule.constants:
        if name != "lr":
            x = getattr(optimizer, optimizer.names.get(name, name))
            values[name] = contract.number(optimizer.rule_step.tab, name, x)
    return values
