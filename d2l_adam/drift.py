"""The drift between paths: how far apart rounding alone may take them, who agrees with whom, and since when not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from d2l_adam import drive, mutants, spec

#: How far two paths may be apart: so much of the way that an element has gone, ...
RELATIVE = 1e-4
#: ... and so much of its value for each step, which rounds it to float32, up to four times.
ROUNDING = 2.0**-22


class Path:
    """Where all elements of a drive are after each step, in both runs, and how far from there is still the same."""

    def __init__(self, paths: Sequence[Any]):
        self.paths = [_in_single(numpy.asarray(path)) for path in paths]
        self.limits = [_limit(path) for path in self.paths]

    def fits(self, run: int, step: int, p: Any) -> bool:
        """Whether `p` is where this path is after a step."""
        return bool((_apart(self.paths[run][step], _in_single(p)) <= self.limits[run][step]).all())


def _in_single(x):
    """Values as float32 has them: what is too large for it is infinite."""
    with numpy.errstate(over="ignore"):
        return x.astype("float32").astype("float64")


def _limit(path):
    finite = numpy.where(numpy.isfinite(path), path, 0)
    way = numpy.maximum.accumulate(abs(finite - finite[0]))
    value = numpy.maximum.accumulate(abs(finite))
    return RELATIVE * way + numpy.arange(len(path))[:, None] * ROUNDING * value


def _apart(x, y):
    """How far apart values are: infinitely if one is NaN and the other is not."""
    with numpy.errstate(invalid="ignore"):
        apart = abs(x - y)
    same = (x == y) | (numpy.isnan(x) & numpy.isnan(y))
    return numpy.where(same, 0.0, numpy.where(numpy.isnan(apart), numpy.inf, apart))


class Distance(NamedTuple):
    """How far apart two paths are."""

    #: The largest distance, as a multiple of what rounding may do; above 1 it is drift.
    ratio: float
    #: The largest distance itself, of values that are finite.
    largest: float
    #: The first step after which they are farther apart than allowed, or None.
    step: int | None
    #: The regimes of gradients in which they are.
    regimes: tuple[str, ...]
    #: Whether one has NaN or infinity where the other has not.
    nonfinite: bool
    #: The parameters in which they are: 0 is the weight, 1 the bias.
    parameters: tuple[int, ...]

    @property
    def agree(self) -> bool:
        """Whether rounding explains it."""
        return self.step is None

    def __str__(self):
        """Since when, how far and with which gradients."""
        regimes = " or ".join(filter(None, (", ".join(self.regimes[:-1]), self.regimes[-1])))
        where = "" if len(self.regimes) == len(drive.REGIMES) else f", where gradients are {regimes}"
        if len(self.parameters) == 1:
            where = f", in the {('weight', 'bias')[self.parameters[0]]} only"
        far = [f"max {self.largest:.1e}"] * (self.largest > 0) + ["NaN or infinite in one only"] * self.nonfinite
        return f"from step {self.step} ({'; '.join(far)}){where}"


def distance(one: Path, other: Path) -> Distance:
    """Compare two paths of the same drive."""
    runs = list(zip(one.paths, other.paths, one.limits, other.limits, strict=True))
    apart = [_apart(x, y) for x, y, _, _ in runs]
    limits = [numpy.maximum(x, y) for _, _, x, y in runs]
    beyond = [x > limit for x, limit in zip(apart, limits, strict=True)]
    steps = [int(x.any(axis=1).argmax()) for x in beyond if x.any()]
    regimes = {drive.REGIMES[i] for x in beyond for i in drive.REGIME[x.any(axis=0)]}
    largest, ratio = 0.0, 0.0
    for x, limit in zip(apart, limits, strict=True):
        x, limit = x[is_finite := numpy.isfinite(x)], limit[is_finite]
        largest = max(largest, x.max(initial=0))
        with numpy.errstate(divide="ignore", invalid="ignore"):
            ratio = max(ratio, numpy.where(x > 0, x / limit, 0).max(initial=0))
    return Distance(
        float(ratio),
        float(largest),
        min(steps, default=None),
        tuple(name for name in drive.REGIMES if name in regimes),
        not all(numpy.isfinite(x).all() for x in apart),
        tuple(sorted({int(k) for x in beyond for k in drive.PARAMETER[x.any(axis=0)]})),
    )


@dataclass
class Verdict:
    """What the paths of one optimizer in several tabs say."""

    #: Tabs that agree with one another: first those that are right, as the spec or as most tabs.
    groups: list[list[str]]
    #: Whether those are known to be right.
    sure: bool
    #: The rule of the spec that the optimizer is, or None; and whether the first group makes exactly that.
    rule: str | None
    matches_spec: bool
    #: What makes the first group's path of the rule, if it is not the rule as it is.
    search: mutants.Search
    #: For each tab outside the first group how far it is from that, and what makes its path.
    odd: dict[str, tuple[Distance, mutants.Search]]
    #: The largest distance of paths that agree, and the smallest of those that do not, as multiples of what is allowed.
    rounding: float
    smallest: float | None


def judge(
    name: str,
    paths: dict[str, Path],
    runs: Sequence[dict[str, Any]],
    numbers: dict[str, Iterable[float]] = {},  # noqa: B006  only read
    known: Sequence[Any] = tuple(spec.BOOK.values()),
) -> Verdict:
    """Compare the paths of one optimizer, by tab, and name what is wrong with those that stand alone.

    `known` are the rules that it may be: the one of its name, or the one whose path some tab has. `numbers` are those
    in the code of each tab.
    """
    groups: list[list[str]] = []
    found: list[Distance] = []
    for tab, path in paths.items():
        for group in groups:
            found.append(distance(paths[group[0]], path))
            if found[-1].agree:
                group.append(tab)
                break
        else:
            groups.append([tab])
    rule, right = _rule(name, paths, runs, known)
    from_spec = {group[0]: distance(right, paths[group[0]]) for group in groups} if right else {}
    groups.sort(key=lambda group: (group[0] in from_spec and from_spec[group[0]].agree, len(group)), reverse=True)
    best = groups[0]
    matches_spec = best[0] in from_spec and from_spec[best[0]].agree

    def explain(tab):
        if rule is None:
            return mutants.Search([])
        return mutants.explain(rule, runs, paths[tab].fits, numbers.get(tab, ()))

    common = mutants.Search([]) if matches_spec else explain(best[0])
    odd: dict[str, tuple[Distance, mutants.Search]] = {}
    for group in groups[1:]:
        search = explain(group[0])
        if common.causes:  # it is compared with the first group, whatever both have made of the rule
            causes = [tuple(x for x in some if x not in common.causes[0]) or some for some in search.causes]
            search = search._replace(causes=causes)
        odd |= {tab: (distance(paths[best[0]], paths[tab]), search) for tab in group}
    found += from_spec.values()
    return Verdict(
        groups,
        matches_spec or len(groups) == 1 or len(best) > len(groups[1]),
        rule.name if rule else None,
        matches_spec,
        common,
        odd,
        max((x.ratio for x in found if x.agree), default=0.0),
        min((x.ratio for x in found if x.ratio > 1), default=None),
    )


def follow(rule: mutants.Rule, runs: Sequence[dict[str, Any]]) -> Path:
    """The path of a rule of the spec."""
    return Path([list(rule.follow(run, steps)) for run, steps in zip(runs, drive.STEPS, strict=True)])


def _rule(name, paths, runs, known):
    """The rule of that name, or whose path some tab has; and its path."""
    named = [rule for rule in known if rule.__name__ == name]
    for rule in map(mutants.Rule, named or known):
        if rule.takes(runs[0]):
            path = follow(rule, runs)
            if named or any(distance(path, x).agree for x in paths.values()):
                return rule, path
    return None, None
