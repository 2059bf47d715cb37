"""The PyTorch tab: the spec on `torch.Tensor`, in the calling convention of `d2l.torch` and of `torch.optim`."""

import ctypes
import functools
import os
import sys
import warnings
from types import FunctionType
from typing import Any

from d2l_adam import binding, checkpoint, contract, fused, imports, spec

with imports.framework("torch", pip="torch"):
    import torch
    from torch import sign, sqrt, square  # noqa: F401  the words of the spec
imports.triton()
if "tensorflow" in sys.modules:
    # What TensorFlow has in the place of CUDA's library then answers PyTorch's too, and where there is no GPU it is
    # complained of, once: now, and to nobody.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.device_count()

_THIS = sys.modules[__name__]
NAME = "pytorch"
PARAMETER = GRADIENT = torch.Tensor
float32 = torch.Tensor.float
DTYPES = {getattr(torch, name): name for name in contract.HALF + contract.FULL}


def kind(x):
    return x.shape, DTYPES.get(x.dtype, x.dtype), x.device


def writable(x):
    # The elements of an expanded tensor share memory; a sparse one has no place for each.
    return x.layout is torch.strided and (
        x.is_contiguous() or all(stride or n < 2 for stride, n in zip(x.stride(), x.shape, strict=True))
    )


untracked = torch.inference_mode


def write(arrays, values):
    if arrays:
        torch._foreach_copy_(arrays, values)


def fill(arrays, values):
    with torch.no_grad():
        write(arrays, [torch.tensor(value, device="cpu") for value in values])


def asnumpy(x):
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy().copy()  # NumPy has no bfloat16


def zeros(shape, dtype=None):
    return torch.zeros(shape, dtype=dtype and getattr(torch, dtype))


def parameter(x):
    return torch.tensor(x, requires_grad=True)


def give(p, g):
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    p.grad.copy_(torch.tensor(g))


_PLAIN = {torch.Tensor, torch.nn.Parameter}
#: What a parameter, its gradient and its averages usually are.
_PLAIN_ROWS = {(kind, torch.Tensor, torch.Tensor, torch.Tensor) for kind in _PLAIN}
num_threads = torch.get_num_threads


def _parallel():
    """OpenMP's entry to its threads, in the library that PyTorch has loaded; None where there is none such."""
    try:
        return ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_omp = {"parallel": _parallel()}
if hasattr(os, "register_at_fork"):  # the threads do not live on in a child, but OpenMP would wait for them
    os.register_at_fork(after_in_child=_omp.clear)


def in_own_threads(work, threads):
    # After an operation, PyTorch's threads look for more work some milliseconds long: others had to wait for them.
    parallel = _omp.get("parallel")
    if parallel:
        parallel(_CALLBACK(lambda _: work()), None, ctypes.c_uint(threads), ctypes.c_uint(0))
    return bool(parallel)


def lend(params, grads, states, adds):
    vs, ss = zip(*states, strict=True)
    n = len(params)
    if not n == len(vs) == len(grads) or _traced():
        return None
    tensors = *params, *vs, *ss, *grads
    key = n, id(params[0])
    look_alike, dtype, sizes, before, places = _seen.get(key, _UNSEEN)
    try:
        pointers = [x.data_ptr() for x in tensors]
        # A nested tensor has no one shape, and must not be compared.
        known = True not in [x.is_nested for x in tensors] and look_alike(*tensors)
        if not known:
            if not _are_plain(params, grads, vs, ss):
                return None
            look_alike, dtype, sizes = _recorded(tensors), params[0].dtype, [p.numel() for p in params]
    except RuntimeError:  # a tensor without memory of its own, such as a sparse one
        return None
    if not known or pointers != before:
        rows = zip(*(pointers[i : i + n] for i in range(0, 4 * n, n)), sizes, strict=True)
        places = [x for p, v, s, g, size in rows if size for x in (p, v, s, p, v, s, g, size)]
        if 0 in places:  # nor has this
            return None
        if len(_seen) >= 32:
            _seen.clear()
        _seen[key] = look_alike, dtype, sizes, pointers, places
    return fused.Memory(DTYPES[dtype], places, (tensors, 3 * n))


def _are_plain(params, grads, vs, ss):
    """Whether these are dense tensors of one full dtype on the processor, and those of a parameter of one shape."""
    dtype = params[0].dtype
    return DTYPES.get(dtype) in contract.FULL and all(
        type(x) in _PLAIN
        and x.dtype is dtype
        and x.shape == p.shape
        and x.is_cpu
        and x.is_contiguous()
        and not x.is_neg()
        for p, *others in zip(params, grads, vs, ss, strict=True)
        for x in (p, *others)
    )


def _never(*tensors):
    return False


def _recorder():
    """A function that records how tensors look, and returns another that says whether tensors look like those.

    PyTorch's compiler has it, and compares all in one call: type, layout, dtype, device, shape, strides, and the mark
    of a negative. It holds no tensor, and refuses one that is given twice. It may change, so it is tried first.
    """

    def recorded(tensors):
        return torch._C._dynamo.guards.TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check

    x = torch.zeros(2, 2, device="cpu")  # whatever `torch.set_default_device` says
    others = x.double(), x[0], x[:1], x.t(), torch.nn.Parameter(x), x.to("meta"), torch._neg_view(x)
    try:
        look_alike = recorded([x])
        if look_alike(torch.ones_like(x)) and not any(map(look_alike, others)) and not recorded([x, x.clone()])(x, x):
            return recorded
    except Exception:  # it is missing, or another
        pass
    return lambda tensors: _never


_recorded = _recorder()
_UNSEEN = _never, None, None, None, None
#: What is known of tensors that `lend` has seen. The key only says where to look: others may come by the same `id`.
_seen: dict[tuple[int, int], tuple] = {}


def _traced():
    """Whether what is done to tensors is being recorded, and memory would be stepped behind the recorder's back."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0


def stepped(arrays, zero_grad):
    tensors, written = arrays  # the gradients are last
    # Autograd may have saved what they were.
    _increment_versions(tensors if zero_grad else tensors[:written])


try:
    torch.autograd.graph.increment_version(())
    _increment_versions = torch.autograd.graph.increment_version
except TypeError:  # an older one takes a tensor

    def _increment_versions(tensors):
        for x in tensors:
            torch.autograd.graph.increment_version(x)


def dense(params, grads):
    """The gradients, those that are sparse made dense: the values of duplicate indices summed."""
    return [_dense(p, g) for p, g in zip(params, grads, strict=False)]


def step(rule):
    """Return `rule` as one step on tensors, in the convention of `d2l.torch`."""
    bound = binding.bind(_THIS, rule)

    def one_step(params, states, hyperparams):
        """Make one step in place. `params` are tensors; their `.grad` is read, and set to zero after.

        A sparse gradient is made dense first, the values of duplicate indices summed.
        """
        _refuse_capture()
        params = contract.listed(_THIS, "params", params)
        grads = [getattr(p, "grad", None) for p in params]
        if not bound(params, grads, states, hyperparams, zero_grad=True):
            with untracked():
                for p in params:
                    p.grad.zero_()

    return one_step


def _refuse_capture():
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "pytorch: this step cannot be captured in a CUDA graph, which would repeat it at the time and rate of its "
            "capture; capture the rest, and step after it"
        )


def _dense(p, grad):
    if isinstance(grad, torch.Tensor) and grad.layout is not torch.strided:
        half = grad.dtype == p.dtype and DTYPES.get(p.dtype) in contract.HALF  # another dtype is refused as it is
        grad = (grad.float() if half else grad).to_dense()
    return grad


def regression(w, b):
    """Linear regression from weights `w` and bias `b`: its parameters, `loss(X, y)` and `gradients(X, y)`."""
    w, b = params = [parameter(x) for x in (w, b)]

    def loss(X, y):
        X, y = (torch.from_numpy(x).to(w.device) for x in (X, y))
        return ((X @ w + b - y) ** 2 / 2).mean()

    def gradients(X, y):
        loss(X, y).backward()
        return ()  # the step reads them from p.grad

    return params, loss, gradients


_ARGUMENTS = """
Args:
    params (iterable): parameters to optimize, or dicts that define parameter groups, each with
        options of its own. Dense tensors of any shape; float16, bfloat16, float32, float64, or
        complex (then the real and the imaginary part are two parameters). The averages of float16
        and bfloat16 parameters are float32.
    lr (float or Tensor, optional): learning rate, any `torch.optim.lr_scheduler` may change it (default: {lr})
    betas (tuple[float, float], optional): decay rates of the averages of the gradient and of its
        square, each in [0, 1) (default: (0.9, 0.999))
    eps (float, optional): added to the root of the second average, outside of the root and after
        the correction of the bias, as `torch.optim.Adam` does; the default is the chapter's,
        there it is 1e-8 (default: {eps})
    weight_decay (float, optional): weight decay (default: 0)
    amsgrad (bool, optional): only False, as True is another rule (default: False)
    foreach (bool, optional): taken as `torch.optim.Adam` takes it, and changes nothing (default: None)
    maximize (bool, optional): maximize the objective instead (default: False)
    decoupled_weight_decay (bool, optional): take the weight decay off the parameter, as
        `torch.optim.AdamW` does, rather than add it to the gradient (default: False)
    capturable (bool, optional): only False, as the step counts on the processor, and a CUDA graph would repeat
        it at the time of its capture (default: False)
    differentiable (bool, optional): only False, as autograd does not see the step (default: False)
    fused (bool, optional): whether the step of each contiguous parameter is one pass over memory,
        compiled by Numba for float32 and float64 on the processor, else by `torch.compile`. None: what
        `d2l_adam.set_fused` says, and of itself by Numba if it is there, and by `torch.compile` on
        a GPU (default: None)

The state of each parameter that has had a gradient has `step`, `exp_avg` and `exp_avg_sq`. Sparse
gradients are made dense, the values of duplicate indices summed: each step moves all coordinates,
as those whose gradient is zero have averages too.

The parameters may be DTensors, each in shards or whole in every process: a gradient that is placed otherwise,
such as a sum still to be made, is brought to the placements of its parameter first.

A parameter that is given twice is refused when the optimizer is made, or the group added: it would make
two steps in one. (`torch.optim` warns of it, and makes both.)
"""


@binding.native(_THIS, spec.adam, _ARGUMENTS)
class Adam(torch.optim.Optimizer):
    """Adam of the chapter as a `torch.optim.Optimizer`.

    It stands where `torch.optim.Adam` stands (and `AdamW`, with `decoupled_weight_decay`), and the
    state of each can be loaded into the other.

    >>> import torch
    >>> from d2l_adam.torch import Adam
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Adam([weight], lr=0.1)
    >>> (weight**2).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([0.9000, 1.9000])
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.0,
        amsgrad=False,
        *,
        foreach=None,
        maximize=False,
        capturable=False,
        differentiable=False,
        fused=None,
        decoupled_weight_decay=False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:  # they may have been saved by torch.optim, or by an older version of it
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def add_param_group(self, param_group):
        """Add a group of parameters: a dict of `params`, and of the options that are its own."""
        if isinstance(param_group, dict):
            self._constants(self.defaults | param_group, t=1)
            if not isinstance(param_group["params"], (torch.Tensor, set)):  # the base class refuses a set
                param_group["params"] = list(param_group["params"])
                _check_params(param_group["params"])
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict):
        """Load the `state_dict` of this class, or of `torch.optim.Adam` and `AdamW` without amsgrad.

        What is checked and loaded is what the hooks of `register_load_state_dict_pre_hook` make of it. Raises
        ValueError or TypeError with cause and cure; then nothing has changed.
        """
        loaded: dict[str, Any] = {}

        def check(optimizer, state_dict):
            loaded.update(state_dict)
            self._check_state(state_dict["param_groups"], state_dict["state"])

        def restore(optimizer):
            # The base class has rounded the averages to the dtype of the parameter, and may have moved the counters.
            keys = [key for group in loaded["param_groups"] for key in group["params"]]
            params = [p for group in self.param_groups for p in group["params"]]
            for key, p in zip(keys, params, strict=True):
                if state := loaded["state"].get(key):
                    self.state[p]["step"] = _clock(state["step"])
                    for name in ("exp_avg", "exp_avg_sq"):
                        if p.dtype in _STATE:
                            self.state[p][name] = state[name].to(p.device, _STATE[p.dtype], copy=True)

        # As hooks of its own: after those before loading that others have registered, and before those after it.
        hooks = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _check_state(self, groups, states):
        """Refuse what is no state of an Adam, or has options that cannot be honoured."""
        missing = {key for group in groups for key in ("lr", "betas", "eps") if key not in group}
        for state in [states.get(key) for group in groups for key in group["params"]]:
            if state:  # else the parameter had no gradient yet
                missing |= {"step"} - state.keys()
                missing |= {key for key in ("exp_avg", "exp_avg_sq") if not isinstance(state.get(key), torch.Tensor)}
        if missing:
            raise ValueError(
                f"pytorch: this is no state of an Adam, it lacks {', '.join(sorted(missing))}; load another"
            )
        for group in groups:
            self._constants(self.defaults | group, t=1)

    @torch.no_grad()
    def step(self, closure=None):
        """Make one step. A parameter whose `grad` is None is left as it is, and so is its state.

        `closure`, if given, computes the gradients anew; the loss that it returns is returned.
        Raises ValueError or TypeError with cause and cure; then nothing has changed.
        """
        _refuse_capture()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._advance()
        return loss

    @torch.compiler.disable  # a compiled training loop would freeze constants that change, and round otherwise
    def _advance(self):
        for states, taken, rest, numbers, options in [x for i in range(len(self.param_groups)) for x in self._jobs(i)]:
            self.loop.run(taken, numbers, **options)
            for row, compiled in rest:
                if compiled:
                    _step_compiled(self.kernel, row, numbers, options)
                else:
                    write((row[0], row[2], row[3]), _updated(self.kernel, row, numbers, options))
            torch._foreach_add_([state["step"] for state in states.values()], 1)
            self.state.update(states)

    def _jobs(self, number):
        """What the step has to do for a group, all of it checked: a tuple for all parameters of one age."""
        group, jobs = self.param_groups[number], []
        choice = fused.choice() if group["fused"] is None else group["fused"]
        ages: dict[int, list[tuple]] = {}  # one, if no parameter was ever left out
        for place, p in enumerate(group["params"]):
            if p.grad is not None:
                state = self.state.get(p) or _zero_state(p)
                if not isinstance(state["step"], torch.Tensor):
                    state["step"] = _clock(state["step"])
                ages.setdefault(int(state["step"]), []).append((place, p, state))
        for age, members in ages.items():

            def name(i, members=members):
                place = members[i][0]
                place = group["param_names"][place] if "param_names" in group else place
                return f"{place} of group {number}" if len(self.param_groups) > 1 else str(place)

            numbers, options = self._constants(group, age + 1)
            rows = (_row(p, state, name, i) for i, (_, p, state) in enumerate(members))
            params, grads, vs, ss = zip(*rows, strict=True)
            states = list(zip(vs, ss, strict=True))
            taken, rest = self.loop.take(params, grads, states, None if choice else choice, tuple(options), name)
            rest = [(row, _compilable(choice, row)) for row in rest]
            jobs.append(({p: state for _, p, state in members}, taken, rest, numbers, options))
        return jobs

    def _constants(self, group, t):
        """What the rule is given beside the arrays, and the options of `spec.conditioned`."""
        for option, reason in _REFUSED.items():
            if group.get(option):
                raise ValueError(f"pytorch: {option}=True {reason}; leave it out, or False")
        numbers = contract.numbers(_THIS, self.constants, {"lr": _number(group["lr"]), "t": t, **_averaging(group)})
        weight_decay = contract.number(_THIS, "weight_decay", group["weight_decay"])
        options = {"scale": -1.0} if group["maximize"] else {}
        if weight_decay and group["decoupled_weight_decay"]:
            options["decay"] = numbers["lr"] * weight_decay
        elif weight_decay:
            options["l2"] = weight_decay
        return numbers, options


@binding.native(_THIS, spec.yogi, _ARGUMENTS)
class Yogi(Adam):
    """Yogi of the chapter as a `torch.optim.Optimizer`.

    >>> import torch
    >>> from d2l_adam.torch import Yogi
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Yogi([weight], lr=0.1)
    >>> (weight**2).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([0.9000, 1.9000])
    """

    def __init__(self, params, lr=1e-2, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0, **options):
        super().__init__(params, lr, betas, eps, weight_decay, **options)


#: What `torch.optim.Adam` can be asked for, and this cannot do.
_REFUSED = {
    "amsgrad": "is another rule than this",
    "capturable": "is refused, as a CUDA graph would repeat this step at the time and rate of its capture",
    "differentiable": "is refused, as autograd does not see this step",
}


def _check_params(params):
    """Refuse a parameter that is given twice, or in parts whose sum it is."""
    first: dict[torch.Tensor, Any] = {}
    for i, p in enumerate(params):
        name, p = p if isinstance(p, tuple) else (i, p)
        if not isinstance(p, torch.Tensor):
            continue  # the base class refuses it
        if p in first:
            raise ValueError(f"pytorch: parameter {name} is the same tensor as parameter {first[p]}; give it once")
        first[p] = name
        if any(placement.is_partial() for placement in getattr(p, "placements", ())):
            raise ValueError(f"pytorch: parameter {name} is {p.placements}; redistribute it to Shard or Replicate")


def _averaging(group):
    """The constants of a group's averages."""
    try:
        beta1, beta2 = group["betas"]
    except (TypeError, ValueError):
        raise ValueError(f"pytorch: betas is {group['betas']}; give two decay rates, such as (0.9, 0.999)") from None
    return {"beta1": _number(beta1), "beta2": _number(beta2), "eps": _number(group["eps"])}


def _number(x):
    return x.item() if isinstance(x, torch.Tensor) and x.numel() == 1 else x


def carried(params, optimizer):
    """Return what the parameters `params` of an `Adam` or `Yogi` carry elsewhere."""
    if not isinstance(optimizer, Adam):
        raise TypeError(f"pytorch: the optimizer is {type(optimizer)}; give an Adam or a Yogi of d2l_adam.torch")
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    for i, p in enumerate(params):
        if hasattr(p, "to_local"):
            raise TypeError(f"pytorch: parameter {i} is distributed; save it with torch.distributed.checkpoint")
        if p not in groups:
            raise ValueError(f"pytorch: parameter {i} is none of the optimizer's; give those that it was made for")
    constants = [_averaging(groups[p]) for p in params]
    if any(other != constants[0] for other in constants):
        raise ValueError("pytorch: the groups differ in betas or eps; save each in a file of its own")
    states = [optimizer.state.get(p) or _zero_state(p) for p in params]

    def set_steps(steps):
        for p, state, step in zip(params, states, steps, strict=True):
            state["step"] = _clock(step)
            optimizer.state[p] = state

    return checkpoint.Carried(
        params=[[p] for p in params],
        averages=lambda: [[(state["exp_avg"], state["exp_avg_sq"])] for state in states],
        steps=[int(state["step"]) for state in states],
        set_steps=set_steps,
        rule=optimizer.rule.__name__,
        constants=constants[0] if constants else {},
        one_clock=False,
    )


def _updated(kernel, row, numbers, options):
    """The new values of a parameter and its averages."""
    p, g, v, s, half = row
    if half:
        p, g = p.float(), g.float()
    p, g = spec.conditioned(p, g, **options)
    return kernel(p, g, v, s, **numbers)


def _step_compiled(kernel, row, *constants):
    """Make the step of one parameter as one pass over memory."""
    p, g, v, s, half = row
    # The constants are tensors: of Python numbers, the compiler freezes some at their first value.
    numbers, options = (
        {name: torch.tensor(x, dtype=torch.float64, device="cpu") for name, x in these.items()} for these in constants
    )
    compiled = _compiled(kernel, p.dtype, half, *options)
    compiled(p.view(-1), g.view(-1), v.view(-1), s.view(-1), numbers, options)


@functools.cache
def _compiled(kernel, dtype, half, *options):
    """A function for each dtype and combination of options, as PyTorch compiles each only a few times."""

    def step(p, g, v, s, numbers, options):
        for x, y in zip((p, v, s), _updated(kernel, (p, g, v, s, half), numbers, options), strict=True):
            x.copy_(y)

    # It counts by code, which all these functions would share.
    own = FunctionType(step.__code__.replace(), step.__globals__, closure=step.__closure__)
    return torch.compile(own, dynamic=True)


def _compilable(choice, row):
    """Whether the step of this parameter, which Numba cannot make, is to be compiled by PyTorch."""
    p, *others, _ = row
    wanted = p.is_cuda if choice is None else choice
    # A compiled step takes all memory to be aligned as that which it was compiled for; older PyTorchs do not ask.
    fit = type(p) in _PLAIN and all(x.is_contiguous() and x.data_ptr() % 16 == 0 for x in (p, *others))
    if not (wanted and fit and (reason := _cannot_compile(p.device.type))):
        return wanted and fit
    if choice:
        raise ValueError(f"pytorch: this step cannot be fused: torch.compile fails for {p.device.type} ({reason})")
    return False


@functools.cache
def _cannot_compile(device):
    """Why `torch.compile` does not work for a kind of device, or None; asked once, and then warned of."""
    try:
        torch.compile(torch.Tensor.exp)(torch.zeros(2, device=device))
    except Exception as error:  # a missing compiler shows itself in many ways
        reason = imports.without_triton() or " ".join(str(error).split())[:300]
        warnings.warn(f"pytorch: torch.compile fails for {device} ({reason}); the steps are not fused", stacklevel=2)
        return reason
    return None


#: The dtype of the averages, where it is not the parameter's.
_STATE = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}


def _zero_state(p):
    zeros = {name: torch.zeros_like(p, dtype=_STATE.get(p.dtype)) for name in ("exp_avg", "exp_avg_sq")}
    return {"step": _clock(0)} | zeros


def _clock(step):
    """The number of steps as torch.optim has it: a tensor, on the processor, where reading it waits for no GPU."""
    return torch.tensor(float(step), dtype=torch.float32, device="cpu")


def _row(p, state, name, i):
    """Parameter, gradient and averages as real numbers of this process; `name(i)` is what an error calls it."""
    p, grad, v, s = row = p, p.grad, state["exp_avg"], state["exp_avg_sq"]
    if (type(p), type(grad), type(v), type(s)) in _PLAIN_ROWS and not p.is_complex():
        return row
    grad = _dense(p, grad)
    grad = grad.resolve_conj() if isinstance(grad, torch.Tensor) else grad
    if isinstance(grad, torch.Tensor):  # another is refused as it is
        grad = _beside(p, grad, v, s, name, i)
    return tuple(map(_plain, (p, grad, v, s)))


def _beside(p, grad, v, s, name, i):
    """The gradient, brought to the placements of the parameter; the averages have to be there."""
    for words, x in (("gradient", grad), ("state v", v), ("state s", s)):
        words = f"pytorch: {words} of parameter {name(i)} is"
        if hasattr(x, "to_local") != hasattr(p, "to_local"):
            kinds = f"{type(x).__name__}, the parameter {type(p).__name__}"
            raise TypeError(f"{words} {kinds}; make both a DTensor, or neither")
        if hasattr(p, "to_local") and x.device_mesh != p.device_mesh:
            raise ValueError(f"{words} on {x.device_mesh}, the parameter on {p.device_mesh}; bring them together")
        if hasattr(p, "to_local") and x is not grad and x.placements != p.placements:
            raise ValueError(f"{words} {x.placements}, the parameter {p.placements}; redistribute the former")
    # It may be a sum that is still to be made, or whole where the parameter is in shards.
    return grad.redistribute(placements=p.placements) if hasattr(p, "to_local") else grad


def _plain(x):
    """Return complex numbers as pairs, and of a DTensor the part that is here."""
    if isinstance(x, torch.Tensor):
        x = x.to_local() if hasattr(x, "to_local") else x
        x = torch.view_as_real(x) if x.is_complex() else x
    return x


binding.publish(_THIS)
