"""The drift between paths: how far apart rounding alone may take them, who agrees with whom, and since when not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from d2l_adam import spec
from d2l_adam.check import drive, mutants
from d2l_adam.check.tree import Tree

#: How far two paths may be apart: so much of the way that an element has gone, ...
RELATIVE = 1e-4
#: ... and so much of its value for each step, which rounds it to float32, up to four times.
ROUNDING = 2.0**-22


class Path:
    """Where all elements of a drive are after each step, and how far from there is still the same.

    `rows` and `limits` are float64 arrays (rows of `drive.STEP`, elements).
    """

    def __init__(self, rows: Any):
        self.rows = _in_single(numpy.asarray(rows))
        runs = numpy.split(self.rows, numpy.flatnonzero(drive.STEP == 0)[1:])
        self.limits = numpy.concatenate([_limit(run) for run in runs])

    @property
    def hollow(self) -> bool:
        """Whether it is NaN or infinite nearly everywhere, where gradients are neither 0 nor sparse."""
        dense = numpy.isin(drive.REGIME, [i for i, x in enumerate(drive.REGIMES) if x.startswith("of order")])
        return bool(numpy.isfinite(self.rows[drive.STEP > 0][:, dense]).mean() < 0.1)

    def fits(self, row: int, p: Any) -> bool:
        """Whether `p` is where this path is in a row."""
        return bool((_apart(self.rows[row], _in_single(p)) <= self.limits[row]).all())


def _in_single(x):
    """Values as float32 has them: what is too large for it is infinite."""
    with numpy.errstate(over="ignore"):
        return x.astype("float32").astype("float64")


def _limit(run):
    finite = numpy.where(numpy.isfinite(run), run, 0)
    way = numpy.maximum.accumulate(abs(finite - finite[0]))
    value = numpy.maximum.accumulate(abs(finite))
    return RELATIVE * way + numpy.arange(len(run))[:, None] * ROUNDING * value


def _apart(x, y):
    """How far apart values are: infinitely if one is NaN and the other is not."""
    with numpy.errstate(invalid="ignore"):
        far = abs(x - y)
    same = (x == y) | (numpy.isnan(x) & numpy.isnan(y))
    return numpy.where(same, 0.0, numpy.where(numpy.isnan(far), numpy.inf, far))


def apart(one: Path, other: Path) -> float:
    """How far apart two paths are, as a part of the way, on average; no element counts for more than 1."""
    with numpy.errstate(invalid="ignore"):
        parts = _apart(one.rows, other.rows) / numpy.maximum(one.limits, other.limits) * RELATIVE
    return float(numpy.minimum(numpy.nan_to_num(parts, nan=0.0), 1).mean())


def listed(names: Sequence[str], word: str = "and") -> str:
    """Names as an enumeration, such as "mxnet, numpy and pytorch"."""
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last


class Distance(NamedTuple):
    """How far apart two paths are.

    `ratio` is the largest distance as a multiple of what rounding may do, above 1 it is drift; `largest` that distance
    itself, of values that are finite. They are farther apart than allowed from `step` on, or None, where gradients are
    of these `regimes`, in these `parameters`: 0 is the weight, 1 the bias. `nonfinite` says whether one has NaN or
    infinity where the other has not.
    """

    ratio: float
    largest: float
    step: int | None
    regimes: tuple[str, ...]
    nonfinite: bool
    parameters: tuple[int, ...]

    @property
    def agree(self) -> bool:
        """Whether rounding explains it."""
        return self.step is None

    def __str__(self):
        """Since when, how far and with which gradients."""
        where = "" if len(self.regimes) == len(drive.REGIMES) else f", where gradients are {listed(self.regimes, 'or')}"
        if len(self.parameters) == 1:
            where = f", in the {('weight', 'bias')[self.parameters[0]]} only"
        far = [f"max {self.largest:.1e}"] * (self.largest > 0) + ["NaN or infinite in one only"] * self.nonfinite
        return f"from step {self.step} ({'; '.join(far)}){where}"


def distance(one: Path, other: Path) -> Distance:
    """Compare two paths of the same drive."""
    far, limits = _apart(one.rows, other.rows), numpy.maximum(one.limits, other.limits)
    beyond, finite = far > limits, numpy.isfinite(far)
    elements = beyond.any(axis=0)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        ratios = numpy.where(far > 0, far / limits, 0)
    return Distance(
        float(ratios[finite].max(initial=0)),
        float(far[finite].max(initial=0)),
        min(drive.STEP[beyond.any(axis=1)].tolist(), default=None),
        tuple(drive.REGIMES[i] for i in numpy.unique(drive.REGIME[elements])),
        not finite.all(),
        tuple(numpy.unique(drive.PARAMETER[elements]).tolist()),
    )


@dataclass
class Verdict:
    """What the paths of one optimizer in several tabs say.

    `groups` are the tabs that agree with one another, first those that are right: as the spec, or as most tabs. `rule`
    is the one that the optimizer is, or None; the first group makes exactly that (`matches_spec`), or what `search` has
    found. `odd` has for each other tab how far it is from the first group, and what makes its path. `rounding` is the
    largest distance of paths that agree, `smallest` that of those that do not, as multiples of what is allowed.
    """

    groups: list[list[str]]
    rule: str | None
    matches_spec: bool
    search: mutants.Search
    odd: dict[str, tuple[Distance, mutants.Search]]
    rounding: float
    smallest: float | None

    @property
    def sure(self) -> bool:
        """Whether the first group is known to be right."""
        return self.matches_spec or len(self.groups) == 1 or len(self.groups[0]) > len(self.groups[1])

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain values, for JSON."""
        odd = {tab: far._asdict() | search._asdict() for tab, (far, search) in self.odd.items()}
        rest = {name: value for name, value in vars(self).items() if name != "search"}
        return rest | self.search._asdict() | {"sure": self.sure, "odd": odd}


def judge(
    name: str,
    paths: dict[str, Path],
    runs: Sequence[dict[str, Any]],
    numbers: dict[str, tuple[float, ...]],
    known: Iterable[Any] = spec.RULES,
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
    tree, right = _rule(name, paths, runs, known)
    from_spec = {group[0]: distance(right, paths[group[0]]) for group in groups} if right else {}
    found += from_spec.values()
    as_spec = [tab for tab, far in from_spec.items() if far.agree]
    groups.sort(key=lambda group: (group[0] in as_spec, not paths[group[0]].hollow, len(group)), reverse=True)
    best = groups[0][0]

    def explain(tab):
        return mutants.explain(tree, runs, paths[tab].fits, numbers[tab]) if tree else mutants.Search([])

    common = mutants.Search([]) if best in as_spec else explain(best)
    odd: dict[str, tuple[Distance, mutants.Search]] = {}
    for group in groups[1:]:
        search = explain(group[0])
        if common.causes:  # it is compared with the first group, whatever both have made of the rule
            causes = [tuple(x for x in some if x not in common.causes[0]) or some for some in search.causes]
            search = search._replace(causes=causes)
        odd |= {tab: (distance(paths[best], paths[tab]), search) for tab in group}
    return Verdict(
        groups,
        tree.rule.name if tree else None,
        best in as_spec,
        common,
        odd,
        max((x.ratio for x in found if x.agree), default=0.0),
        min((x.ratio for x in found if x.ratio > 1), default=None),
    )


def _rule(name, paths, runs, known):
    """The rule of that name, or whose path some tab has; and its path."""
    trees = [Tree(rule) for rule in known]
    named = [tree for tree in trees if tree.rule.name == name]
    for tree in named or trees:
        if tree.takes(runs[0]):
            path = Path(list(tree.follow(runs)))
            if named or any(distance(path, x).agree for x in paths.values()):
                return tree, path
    return None, None
