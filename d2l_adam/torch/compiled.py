"""Steps that PyTorch's compiler makes one pass over memory, where `fused=True` asks for it and no kernel takes them."""

import functools
from types import FunctionType

from d2l_adam import imports
from d2l_adam.interrupt import deferred
from d2l_adam.torch.framework import torch
from d2l_adam.torch.memory import PLAIN


def compilable(choice, row):
    """Whether the step of this row is to be compiled."""
    p, g, state, _ = row
    # A compiled step takes all memory to be aligned as that which it was compiled for; older PyTorchs do not ask.
    fit = type(p) in PLAIN and all(x.is_contiguous() and x.data_ptr() % 16 == 0 for x in (p, g, *state))
    if choice and fit and (reason := _cannot_compile(p.device.type)):
        raise ValueError(f"pytorch: this step cannot be fused: torch.compile fails for {p.device.type} ({reason})")
    return choice and fit


@functools.cache
def _cannot_compile(device):
    """Why `torch.compile` does not work for a kind of device, or None."""
    try:
        torch.compile(torch.Tensor.exp)(torch.zeros(2, device=device))
    except Exception as error:  # a missing compiler shows itself in many ways
        return imports.without_triton() or " ".join(str(error).split())[:300]
    return None


class Compiled:
    """The step of one row, to be made once: no part of it can be done again."""

    zeroed = done = False

    def __init__(self, step, row, numbers, options):
        self.step, self.row, self.given = step, row, (numbers, options)

    def run(self):
        if self.done:
            return
        with deferred(), torch.no_grad():
            p, g, state, half = self.row
            # The constants are tensors: of Python numbers, the compiler freezes some at their first value.
            numbers, options = (
                {name: torch.tensor(x, dtype=torch.float64, device="cpu") for name, x in given.items()}
                for given in self.given
            )
            function = _compiled(self.step, p.dtype, half, *options)
            function(p.view(-1), g.view(-1), [x.view(-1) for x in state], numbers, options)
            self.done = True


@functools.cache
def _compiled(step, dtype, half, *options):
    """A function for each dtype and combination of options, as PyTorch compiles each only a few times."""
    bound, conditioned = step.bound, step.conditioned

    def in_place(p, g, state, numbers, options):
        new_p, g = (p.float(), g.float()) if half else (p, g)
        new_p, g = conditioned(new_p, g, **options)
        for x, y in zip((p, *state), bound(new_p, g, *state, **numbers), strict=True):
            x.copy_(y)

    # It counts by code, which all these functions would share.
    own = FunctionType(in_place.__code__.replace(), in_place.__globals__, closure=in_place.__closure__)
    return torch.compile(own, dynamic=True)
