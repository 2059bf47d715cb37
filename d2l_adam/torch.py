"""The PyTorch tab: the spec on `torch.Tensor`, in the calling convention of `d2l.torch`."""

import sys

from d2l_adam import binding, checks, imports

with imports.framework("torch", pip="torch"):
    import torch
    from torch import sign, sqrt, square  # noqa: F401  the words of the spec

NAME = "pytorch"
PARAMETER = GRADIENT = torch.Tensor
float32 = torch.Tensor.float
DTYPES = {getattr(torch, name): name for name in checks.HALF + checks.FULL}


def kind(x):
    return x.shape, DTYPES.get(x.dtype, x.dtype), x.device


def writable(x):
    # The elements of an expanded tensor share memory; a sparse one has no place for each.
    return x.layout is torch.strided and (
        x.is_contiguous() or all(stride or n < 2 for stride, n in zip(x.stride(), x.shape, strict=True))
    )


def write(arrays, values):
    if arrays:
        torch._foreach_copy_(arrays, values)


def asnumpy(x):
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy().copy()  # NumPy has no bfloat16


def zeros(shape, dtype=None):
    return torch.zeros(shape, dtype=dtype and getattr(torch, dtype))


def step(rule):
    """Return `rule` as one step on tensors, in the convention of `d2l.torch`."""
    bound = binding.bind(sys.modules[__name__], rule)

    def one_step(params, states, hyperparams):
        """Make one step in place. `params` are tensors; their `.grad` is read, and set to zero after.

        A sparse gradient is made dense first, the values of duplicate indices summed.
        """
        params = checks.listed(sys.modules[__name__], "params", params)
        with torch.inference_mode():
            bound(params, [_gradient(p) for p in params], states, hyperparams)
            for p in params:
                p.grad.zero_()

    return one_step


def _gradient(p):
    grad = getattr(p, "grad", None)
    if isinstance(grad, torch.Tensor) and grad.layout is not torch.strided:
        half = grad.dtype == p.dtype and DTYPES.get(p.dtype) in checks.HALF  # another dtype is refused as it is
        grad = (grad.float() if half else grad).to_dense()
    return grad


def regression(w, b):
    """Linear regression from weights `w` and bias `b`: its parameters, `loss(X, y)` and `gradients(X, y)`."""
    w, b = params = [torch.tensor(x, requires_grad=True) for x in (w, b)]

    def loss(X, y):
        return ((torch.from_numpy(X) @ w + b - torch.from_numpy(y)) ** 2 / 2).mean()

    def gradients(X, y):
        loss(X, y).backward()
        return ()  # the step reads them from p.grad

    return params, loss, gradients


binding.publish(sys.modules[__name__])
