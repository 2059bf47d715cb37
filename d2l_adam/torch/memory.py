"""The memory of PyTorch's tensors."""

from itertools import cycle

from d2l_adam import contract
from d2l_adam.fused.memory import OTHERWISE, Memory, columns
from d2l_adam.torch import guards
from d2l_adam.torch.framework import torch

DTYPES = {getattr(torch, name): name for name in contract.HALF + contract.FULL}
#: The dtype of the state, where it is not the parameter's.
STATE_DTYPES = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}
#: Types that a kernel may take as they are.
PLAIN = {torch.Tensor, torch.nn.Parameter}

#: What is known of tensors that `lend` has seen. The key only says where to look: others may come by the same `id`.
_seen: dict[tuple[int, int, int], tuple] = {}
_UNSEEN = guards.never, None, None


def lend(params, grads, states):
    """The memory of these tensors, unless what is done to them is being recorded."""
    number, tensors = len(params), columns(params, grads, states)
    if not PLAIN.issuperset(map(type, tensors)) or _traced():
        return OTHERWISE
    key = len(tensors), number, id(params[0])
    look_alike, dtype, sizes = _seen.get(key, _UNSEEN)
    try:
        addresses = [x.data_ptr() for x in tensors]
    except RuntimeError:  # a tensor without memory of its own, such as a sparse one
        return OTHERWISE
    # A nested tensor has no one shape, and must not be compared.
    if True in [x.is_nested for x in tensors] or not look_alike(*tensors):
        if not _are_plain(tensors, number):
            return OTHERWISE
        if len(_seen) >= 32:
            _seen.clear()
        dtype, sizes = params[0].dtype, [p.numel() for p in params]
        _seen[key] = guards.recorded(tensors), dtype, sizes
    if not all(addresses) and any(size and not at for at, size in zip(addresses, cycle(sizes), strict=False)):
        return OTHERWISE  # nor has this
    device = params[0].device if params[0].is_cuda else None
    return Memory(DTYPES[dtype], addresses, sizes, (tensors, len(tensors) - number), device)


def _are_plain(tensors, number):
    """Whether these are dense tensors in one place, as a kernel takes them, and those of a parameter of one shape.

    On the processor they are float32 or float64; on a GPU parameters and gradients may be in half precision.
    """
    dtype, device = tensors[0].dtype, tensors[0].device
    if DTYPES.get(dtype) not in contract.FULL + contract.HALF * (device.type == "cuda"):
        return False
    if device.type not in ("cpu", "cuda"):
        return False
    dtypes = dtype, *[STATE_DTYPES.get(dtype, dtype)] * (len(tensors) // number - 2), dtype
    for i, x in enumerate(tensors):
        alike = x.dtype is dtypes[i // number] and x.shape == tensors[i % number].shape
        if not (alike and x.device == device and x.is_contiguous() and not x.is_neg()):
            return False
    return True


def _traced():
    """Whether what is done to tensors is being recorded, and memory would be stepped behind the recorder's back."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0
