"""What PyTorch is as a tab."""

from d2l_adam import contract
from d2l_adam.rule import Rule
from d2l_adam.tab import Tab
from d2l_adam.torch import memory, openmp
from d2l_adam.torch.framework import torch
from d2l_adam.torch.gpu import TorchStep
from d2l_adam.torch.memory import DTYPES, STATE_DTYPES


def _maximum(x, y):
    if not isinstance(x, torch.Tensor):
        x, y = y, x
    return torch.maximum(x, y) if isinstance(y, torch.Tensor) else x.clamp(min=y)


class PyTorch(Tab):
    """PyTorch's tensors; a step reads `p.grad`, and sets it to zero after."""

    name, module = "pytorch", "torch"
    parameter_type = gradient_type = torch.Tensor
    words = {"maximum": _maximum, "sign": torch.sign, "sqrt": torch.sqrt, "square": torch.square}
    zeroes_grads = True

    def kind(self, x):
        return x.shape, DTYPES.get(x.dtype, x.dtype), x.device

    def writable(self, x):
        # The elements of an expanded tensor share memory; a sparse one has no place for each.
        return x.layout is torch.strided and (
            x.is_contiguous() or all(stride or n < 2 for stride, n in zip(x.stride(), x.shape, strict=True))
        )

    def untracked(self):
        return torch.inference_mode()  # in which arrays may have been made

    def write(self, arrays, values):
        if arrays:
            torch._foreach_copy_(arrays, values)

    def fill(self, arrays, values):
        with torch.no_grad():
            self.write(arrays, [torch.tensor(value, device="cpu") for value in values])

    def float32(self, x):
        return x.float()

    def asnumpy(self, x):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy().copy()  # NumPy has no bfloat16

    def zeros(self, shape, dtype=None):
        return torch.zeros(shape, dtype=dtype and getattr(torch, dtype))

    def zeros_like(self, p):
        return torch.zeros_like(p, dtype=STATE_DTYPES.get(p.dtype), requires_grad=False)

    def start(self, p, value):
        x = self.zeros_like(p)
        (torch.view_as_real(x) if x.is_complex() else x).add_(value)
        return x

    def dense(self, params, grads):
        """The gradients, those that are sparse made dense: the values of duplicate indices summed."""
        return [dense(p, g) for p, g in zip(params, grads, strict=False)]

    def zero(self, params):
        for p in params:
            p.grad.zero_()

    def lend(self, params, grads, states):
        return memory.lend(params, grads, states)

    def stepped(self, arrays, zeroed):
        tensors, written = arrays  # the gradients are last
        # Autograd may have saved what they were.
        _increment_versions(tensors if zeroed else tensors[:written])

    def num_threads(self):
        return torch.get_num_threads()

    def in_own_threads(self, work, threads):
        return openmp.run(work, threads)

    def step(self, rule):
        step = TorchStep(self, rule)

        def one_step(params, states, hyperparams):
            """Make one step in place. `params` are tensors; their `.grad` is read, and set to zero after.

            A sparse gradient is made dense first, the values of duplicate indices summed.
            """
            refuse_capture()
            params = contract.listed(self, "params", params)
            step(params, [getattr(p, "grad", None) for p in params], states, hyperparams)

        return self.documented(one_step, step.rule)

    def optimizer(self, rule, initial=None):
        from d2l_adam.torch import native

        return native.made(Rule(rule, initial))

    def carried(self, params, optimizer):
        from d2l_adam.torch import native

        return native.carried(params, optimizer)

    def parameter(self, x):
        return torch.tensor(x, requires_grad=True)

    def give(self, p, g):
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad.copy_(torch.tensor(g))

    def regression(self, w, b):
        w, b = params = [self.parameter(x) for x in (w, b)]

        def loss(X, y):
            X, y = (torch.from_numpy(x).to(w.device) for x in (X, y))
            return ((X @ w + b - y) ** 2 / 2).mean()

        def gradients(X, y):
            loss(X, y).backward()
            return ()  # the step reads them from p.grad

        return params, loss, gradients


try:
    torch.autograd.graph.increment_version(())
    _increment_versions = torch.autograd.graph.increment_version
except TypeError:  # an older one takes a tensor

    def _increment_versions(tensors):
        for x in tensors:
            torch.autograd.graph.increment_version(x)


def refuse_capture():
    """Refuse to be recorded by a CUDA graph."""
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "pytorch: this step cannot be captured in a CUDA graph, which would repeat it at the time and rate of its "
            "capture; capture the rest, and step after it"
        )


def dense(p, grad):
    """A gradient, made dense if it is sparse; in float32 if it is in half precision."""
    if isinstance(grad, torch.Tensor) and grad.layout is not torch.strided:
        half = grad.dtype == p.dtype and DTYPES.get(p.dtype) in contract.HALF  # another dtype is refused as it is
        grad = (grad.float() if half else grad).to_dense()
    return grad


TAB = PyTorch()
