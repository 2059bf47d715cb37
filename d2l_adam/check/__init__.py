"""The drift checker: the tabs of a section of a d2l-style book, run on the same gradients and compared.

    report = d2l_adam.check.check([Path("adam.md")])

`markdown` reads cells, `definitions` finds the optimizers in them, `sandbox` starts `worker`, which runs their code
apart; `drive` steps an optimizer, `drift` compares the paths, `mutants` looks for changes of a rule's `tree` that make
a path, `report` says it all, and `checking` does one after the other.
"""

from d2l_adam.check.checking import check
from d2l_adam.check.report import Finding, Report

__all__ = ["Finding", "Report", "check"]
