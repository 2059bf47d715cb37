"""Rules as `torch.optim.Optimizer`s."""

import functools
import operator
from collections.abc import Mapping
from typing import Any

from d2l_adam import checkpoint, contract, fused, native, spec
from d2l_adam.interrupt import deferred, finish
from d2l_adam.rule import Rule
from d2l_adam.torch.framework import torch
from d2l_adam.torch.gpu import TorchStep
from d2l_adam.torch.memory import STATE_DTYPES
from d2l_adam.torch.tab import TAB, dense, refuse_capture

#: What every optimizer of this module takes, with its default.
_OPTIONS = {
    "weight_decay": 0.0,
    "foreach": None,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "decoupled_weight_decay": False,
}
#: What `torch.optim.Adam` can be asked for, and this cannot do.
_REFUSED = {
    "capturable": "is refused, as a CUDA graph would repeat this step at the time and rate of its capture",
    "differentiable": "is refused, as autograd does not see this step",
}
_TEXT = """
    weight_decay (float, optional): weight decay, where the rule has no constant of that name (default: 0)
    foreach (bool, optional): taken as `torch.optim` takes it, and changes nothing (default: None)
    maximize (bool, optional): maximize the objective instead (default: False)
    decoupled_weight_decay (bool, optional): take the weight decay off the parameter, as
        `torch.optim.AdamW` does, rather than add it to the gradient (default: False)
    capturable (bool, optional): only False, as the step counts on the processor, and a CUDA graph would repeat
        it at the time of its capture (default: False)
    differentiable (bool, optional): only False, as autograd does not see the step (default: False)
    fused (bool, optional): whether the step is one pass over memory: of contiguous float32 and float64 tensors on
        the processor by Numba; on a GPU, in any dtype, one launch for all tensors of a group that are of one dtype,
        by Triton. True: so, or it is an error that says why not. None: what `d2l_adam.set_fused` says, and of itself
        wherever Numba or Triton can make it (default: None)

`params` (iterable) are parameters to optimize, or dicts that define parameter groups, each with options of its own.
Dense tensors of any shape; float16, bfloat16, float32, float64, or complex (then real and imaginary part are two
parameters). Any `torch.optim.lr_scheduler` may change `lr`, which may be a tensor. The state of each parameter that has
had a gradient has `step` and the arrays of the rule (for Adam and Yogi `exp_avg` and `exp_avg_sq`); that of float16 and
bfloat16 parameters is float32. Sparse gradients are made dense, the values of duplicate indices summed: each step moves
all coordinates, as those whose gradient is zero have averages too.

The parameters may be DTensors, each in shards or whole in every process: a gradient that is placed otherwise,
such as a sum still to be made, is brought to the placements of its parameter first.

A parameter that is given twice is refused when the optimizer is made, or the group added: it would make
two steps in one. (`torch.optim` warns of it, and makes both.)
"""


class _NativeStep(TorchStep):
    """A step of any tensors: complex ones, and the part of a DTensor that is here."""

    def plain(self, params, grads, states, name):
        rows = []
        with deferred(), torch.no_grad():
            for i, (p, grad, state) in enumerate(zip(params, grads, states, strict=True)):
                grad = dense(p, grad)
                if isinstance(grad, torch.Tensor):  # another is refused as it is
                    grad = _beside(p, grad.resolve_conj(), state, self.rule.state, name, i)
                rows.append((_plain(p), _plain(grad), tuple(map(_plain, state))))
        return tuple(zip(*rows, strict=True))


class RuleOptimizer(native.OfRule, torch.optim.Optimizer):
    """The steps of a rule, as PyTorch asks for them."""

    step_type = _NativeStep
    #: What the state of a parameter has an array as, where that is not its name in the rule.
    state_names: Mapping[str, str] = {}

    def __init__(self, *args, **kwargs):
        given = self.__signature__.bind(*args, **kwargs)
        given.apply_defaults()
        self._configure(given.arguments.pop("params"), given.arguments)

    def _configure(self, params, defaults):
        _keep_from_compiler()
        self._clocks: dict[int, tuple] = {}
        if defaults.get("amsgrad"):
            self._take_amsgrad()
        super().__init__(params, defaults)

    def __setstate__(self, state):
        _keep_from_compiler()
        super().__setstate__(state)
        self._clocks = {}
        if self.defaults.get("amsgrad"):
            self._take_amsgrad()
        for group in self.param_groups:  # they may have been saved by torch.optim, or by an older version of it
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def add_param_group(self, param_group):
        """Add a group of parameters: a dict of `params`, and of the options that are its own."""
        if isinstance(param_group, dict):
            self._numbers(self.defaults | param_group, t=1)
            if not isinstance(param_group["params"], (torch.Tensor, set)):  # the base class refuses a set
                param_group["params"] = list(param_group["params"])
                _check_params(param_group["params"])
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict):
        """Load the `state_dict` of this class, or, into Adam, of `torch.optim.Adam` and `AdamW`.

        What is checked and loaded is what the hooks of `register_load_state_dict_pre_hook` make of it. Raises
        ValueError or TypeError with cause and cure; then nothing has changed.
        """
        loaded: dict[str, Any] = {}

        def check(optimizer, state_dict):
            loaded.update(state_dict)
            self._check_state(state_dict["param_groups"], state_dict["state"])

        def restore(optimizer):
            # The base class has rounded the state to the dtype of the parameter, and may have moved the counters.
            self._clocks.clear()
            for group, given in zip(self.param_groups, loaded["param_groups"], strict=True):
                pairs = zip(group["params"], map(loaded["state"].get, given["params"]), strict=True)
                states = [(p, state) for p, state in pairs if state]
                clocks = self._shared_clocks([float(state["step"]) for _, state in states])
                for (p, state), clock in zip(states, clocks, strict=True):
                    self.state[p]["step"] = clock
                    for name in self._names() if p.dtype in STATE_DTYPES else ():
                        self.state[p][name] = state[name].to(p.device, STATE_DTYPES[p.dtype], copy=True)

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
        """Refuse what is no state of this rule, or has options that cannot be honoured."""
        missing = {key for group in groups for key in self._keys() if key not in group}
        for state in [states.get(key) for group in groups for key in group["params"]]:
            if state:  # else the parameter had no gradient yet
                missing |= {"step"} - state.keys()
                missing |= {key for key in self._names() if not isinstance(state.get(key), torch.Tensor)}
        if missing:
            kind = type(self).__name__ if type(self).__module__ == "d2l_adam.torch" else "Adam"
            raise ValueError(
                f"pytorch: this is no state of an {kind}, it lacks {', '.join(sorted(missing))}; load another"
            )
        for group in groups:
            self._numbers(self.defaults | group, t=1)

    def _names(self):
        """The keys of the state of a parameter, but `step`."""
        return [self.state_names.get(name, name) for name in self.rule.state]

    def _keys(self):
        """The keys of a group that are constants of the rule."""
        return tuple(self.rule.constants)

    def _constants(self, group):
        """The constants of the rule but the learning rate, of a group."""
        return {name: _number(group[name]) for name in self.rule.constants if name != "lr"}

    def step(self, closure=None):
        """Make one step. A parameter whose `grad` is None is left as it is, and so is its state.

        `closure`, if given, computes the gradients anew; the loss that it returns is returned.
        Raises ValueError or TypeError with cause and cure; then nothing has changed.
        """
        refuse_capture()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._advance()
        return loss

    def _advance(self):
        jobs = [job for number in range(len(self.param_groups)) for job in self._jobs(number)]

        def work():
            for parts, age, clocks, new in jobs:
                for part in parts:
                    part.run()
                if clocks[0].item() == age:  # else this was done before an interrupt
                    together = self._together(clocks)
                    if together is None:
                        torch._foreach_add_(clocks, 1)
                    else:
                        together += 1
                self.state.update(new)

        finish(work)

    def _jobs(self, number):
        """What the step has to do for a group, all of it checked: parts for all parameters of one age."""
        group, jobs = self.param_groups[number], []
        choice = fused.choice() if group["fused"] is None else group["fused"]
        names = self._names()
        given = [(p, grad) for p in group["params"] if (grad := p.grad) is not None]
        states = [self.state.get(p) for p, _ in given]
        new = {}
        if not all(states):
            places = [i for i, state in enumerate(states) if not state]
            for i, clock in zip(places, self._shared_clocks([0.0] * len(places)), strict=True):
                new[given[i][0]] = states[i] = self._zero_state(given[i][0], clock)
        for state in states:
            if not isinstance(state["step"], torch.Tensor):
                state["step"] = _clock(state["step"])
        clocks = [state["step"] for state in states]
        together = self._together(clocks)
        ages = [int(x) for x in (clocks if together is None else together.tolist())]
        for age in dict.fromkeys(ages):  # one, if no parameter was ever left out
            places = [i for i, x in enumerate(ages) if x == age]

            def name(i, places=places):
                with_grad = [place for place, p in enumerate(group["params"]) if p.grad is not None]
                place = with_grad[places[i]]
                place = group["param_names"][place] if "param_names" in group else place
                return f"{place} of group {number}" if len(self.param_groups) > 1 else str(place)

            numbers, options = self._numbers(group, age + 1)
            params, grads = zip(*[given[i] for i in places], strict=True)
            chosen = [states[i] for i in places]
            arrays = [tuple([state[key] for key in names]) for state in chosen]
            parts = self.rule_step.prepare(params, grads, arrays, numbers, options, choice, name)
            jobs.append((parts, age, [clocks[i] for i in places], new))
        return jobs

    def _shared_clocks(self, steps):
        """Clocks of parameters, one tensor each, in memory that can be advanced as one."""
        together = _clock(steps)
        clocks = together.unbind()
        if clocks and type(together) is torch.Tensor:
            self._clocks[id(clocks[0])] = clocks, together.numpy()
        return clocks

    def _together(self, clocks):
        """The array that has the memory of these clocks, and of no others, if there is one."""
        shared, together = self._clocks.get(id(clocks[0]), ((), None)) if clocks else ((), None)
        return together if len(shared) == len(clocks) and all(map(operator.is_, shared, clocks)) else None

    def _numbers(self, group, t):
        """What the rule is given beside the arrays, and the options of `spec.conditioned`."""
        for option, reason in _REFUSED.items():
            if group.get(option):
                raise ValueError(f"pytorch: {option}=True {reason}; leave it out, or False")
        if bool(group.get("amsgrad")) != bool(self.defaults.get("amsgrad")):
            amsgrad = f"amsgrad={group.get('amsgrad')}"
            raise ValueError(f"pytorch: {amsgrad} is another rule than this; make the optimizer itself with {amsgrad}")
        given = {"lr": _number(group["lr"]), "t": t, **self._constants(group)}
        numbers = contract.numbers(TAB, self.rule, given)
        options = {"scale": -1.0} if group["maximize"] else {}
        if "weight_decay" not in numbers and group["weight_decay"] != 0:
            weight_decay = contract.number(TAB, "weight_decay", group["weight_decay"])
            if group["decoupled_weight_decay"]:
                options["decay"] = numbers["lr"] * weight_decay
            else:
                options["l2"] = weight_decay
        return numbers, options

    def _zero_state(self, p, clock):
        names, start = self._names(), self.rule.initial.values()
        return {"step": clock} | {name: TAB.start(p, x) for name, x in zip(names, start, strict=True)}


@functools.cache
def _keep_from_compiler():
    """Have the compiler leave steps as they are: it would freeze constants that change, and round otherwise.

    Not before there is an optimizer, as this loads the compiler, which takes as long as PyTorch itself.
    """
    RuleOptimizer._advance = torch.compiler.disable(RuleOptimizer._advance)  # type: ignore[method-assign]


_ADAM = """
    betas (tuple[float, float], optional): beta1 and beta2 (default: (0.9, 0.999))
    amsgrad (bool, optional): with Adam, take the largest second moment so far, as `torch.optim.Adam` does (default:
        False)
"""


class Adam(RuleOptimizer):
    """Adam of the chapter as a `torch.optim.Optimizer`.

    It stands where `torch.optim.Adam` stands (and `AdamW`, with `decoupled_weight_decay`), and the
    state of each can be loaded into the other; `eps` stands where it stands there, where its default is 1e-8.

    >>> import torch
    >>> from d2l_adam.torch import Adam
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Adam([weight], lr=0.1)
    >>> (weight**2).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([0.9000, 1.9000])
    """

    rule_step = _NativeStep(TAB, spec.adam)
    amsgrad_step: TorchStep | None = _NativeStep(TAB, spec.amsgrad)
    state_names = {"v": "exp_avg", "s": "exp_avg_sq", "x": "max_exp_avg_sq"}

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
        self._configure(params, defaults)

    def _keys(self):
        return "lr", "betas", "eps"

    def _constants(self, group):
        try:
            beta1, beta2 = group["betas"]
        except (TypeError, ValueError):
            raise ValueError(
                f"pytorch: betas is {group['betas']}; give two decay rates, such as (0.9, 0.999)"
            ) from None
        return {"beta1": _number(beta1), "beta2": _number(beta2), "eps": _number(group["eps"])}


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

    rule_step = _NativeStep(TAB, spec.yogi)
    amsgrad_step = None

    def __init__(self, params, lr=1e-2, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0, **options):
        super().__init__(params, lr, betas, eps, weight_decay, **options)


for _class in (Adam, Yogi):
    native.describe(_class, "lr", _ADAM.rstrip() + _TEXT)


@functools.cache
def made(rule: Rule) -> type:
    """Return a class of optimizers of a rule."""
    taken = {"params", "param_names", "step"} | {name for name in _OPTIONS if name != "weight_decay"}
    if names := taken.intersection(rule.constants, rule.state) or {"step"}.intersection(rule.state):
        raise TypeError(f"pytorch: the rule {rule.name} takes {', '.join(names)}, which torch.optim has; rename it")
    return native.made(RuleOptimizer, TAB, rule, "lr", ("params",), _OPTIONS, _TEXT)


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


def _number(x):
    return x.item() if isinstance(x, torch.Tensor) and x.numel() == 1 else x


def _clock(step):
    """The number of steps as torch.optim has it: a tensor, on the processor, where reading it waits for no GPU."""
    return torch.tensor(step, dtype=torch.float32, device="cpu")


#: What an optimizer of torch.optim takes, and the state is not of.
_HARMLESS = {*_OPTIONS, "params", "lr", "initial_accumulator_value"}


def carried(params: list, optimizer: torch.optim.Optimizer) -> checkpoint.Carried:
    """Return what the parameters `params` of an optimizer of this module, or of torch.optim, carry elsewhere."""
    own = isinstance(optimizer, RuleOptimizer)
    kinds = []  # of each group the rule, its names and its constants
    for group in getattr(optimizer, "param_groups", [{}]):
        if own:
            kinds.append((optimizer.rule, optimizer._names(), optimizer._constants(group)))
        else:
            make = "an Adam or a Yogi of d2l_adam.torch"
            row, values = native.of_library(TAB, optimizer, "torch.optim", group, _HARMLESS, make)
            kinds.append((row.rule, list(row.state.values()), values))
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    for i, p in enumerate(params):
        if hasattr(p, "to_local"):
            raise TypeError(f"pytorch: parameter {i} is distributed; save it with torch.distributed.checkpoint")
        if p not in groups:
            raise ValueError(f"pytorch: parameter {i} is none of the optimizer's; give those that it was made for")
    used = {id(group): kind for group, kind in zip(optimizer.param_groups, kinds, strict=True)}
    kinds = [used[id(groups[p])] for p in params] or kinds[:1]
    if any(other != kinds[0] for other in kinds):
        raise ValueError("pytorch: the groups differ in betas or eps; save each in a file of its own")
    rule, names, constants = kinds[0]
    has_clock = own or not isinstance(optimizer, torch.optim.SGD)
    states = []
    for p in params:
        state = dict(optimizer.state.get(p) or ({"step": _clock(0)} if has_clock else {}))
        for name, start in zip(names, rule.initial.values(), strict=True):
            if state.get(name) is None:
                state[name] = TAB.start(p, start)
        states.append(state)

    def set_steps(steps):
        for p, state, step in zip(params, states, steps, strict=True):
            if has_clock:
                on_device = not own and (groups[p].get("fused") or groups[p].get("capturable"))
                state["step"] = _clock(step).to(p.device if on_device else "cpu")
            optimizer.state[p] = state

    return checkpoint.Carried(
        params=[[p] for p in params],
        states=lambda: [[tuple(state[name] for name in names)] for state in states],
        steps=[int(state.get("step", 0)) for state in states],
        set_steps=set_steps,
        rule=rule,
        constants=constants,
        one_clock=False,
    )


def _beside(p, grad, state, names, name, i):
    """The gradient, brought to the placements of the parameter; the state has to be there."""
    for words, x in (("gradient", grad), *((f"state {key}", x) for key, x in zip(names, state, strict=True))):
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
