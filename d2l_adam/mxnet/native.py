"""Rules as `mxnet.optimizer.Optimizer`s, for Gluon's Trainer."""

import functools
import sys

import numpy

from d2l_adam import checkpoint, contract, native, spec
from d2l_adam.interrupt import finish
from d2l_adam.mxnet.framework import mxnet
from d2l_adam.mxnet.tab import TAB
from d2l_adam.rule import Rule
from d2l_adam.step import Step

_TEXT = """
    **options: What every optimizer of MXNet takes: `lr_scheduler` (then the learning rate may be left out),
        `rescale_grad`, `clip_gradient`, `wd`, `multi_precision`, `begin_num_update`, `param_idx2name`, `param_dict`,
        `sym`.

The gradient that the rule sees is `clip(rescale_grad * grad + wd * weight, clip_gradient)`, as in MXNet's
own Adam; `lr_mult` and `wd_mult` of the parameter are applied. Weights may be `mx.np` or `mx.nd` arrays
of any shape, in float16, float32 or float64; the state of float16 weights is float32, with or without
`multi_precision`. A row_sparse gradient is made dense first: each step moves all rows, as those whose
gradient is zero have averages too.

Where a key-value store makes the steps (`update_on_kvstore`, the default for several devices and for `dist_sync`),
MXNet prints an error that occurs in one, and goes on.
"""


class _NativeStep(Step):
    """A step of arrays as an updater has them: of MXNet's older kind, gradients perhaps sparse or on another device."""

    def plain(self, params, grads, states, name):
        weights = [x.as_np_ndarray() for x in params]
        dense = [g if g.stype == "default" else g.tostype("default") for g in grads]
        # A key-value store may sum the gradients elsewhere, in pinned memory for one.
        grads = [g.as_np_ndarray().as_in_ctx(p.ctx) for g, p in zip(dense, weights, strict=True)]
        return weights, grads, [tuple(x.as_np_ndarray() for x in state) for state in states]


class RuleOptimizer(native.OfRule, mxnet.optimizer.Optimizer):
    """The steps of a rule, as MXNet asks for them."""

    step_type = _NativeStep
    num_update: int  # of the base class
    default_learning_rate: float | None = None

    def __init__(self, *args, **kwargs):
        given = self.__signature__.bind(*args, **kwargs)
        given.apply_defaults()
        learning_rate, options = given.arguments.pop("learning_rate"), given.arguments.pop("options", {})
        self._configure(learning_rate, given.arguments, options)

    def _configure(self, learning_rate, constants, options):
        if learning_rate is None and options.get("lr_scheduler") is None:
            if self.default_learning_rate is None:
                raise TypeError("mxnet: learning_rate is missing; give it, or an lr_scheduler")
            learning_rate = self.default_learning_rate
        lr = 0.0 if learning_rate is None else learning_rate
        contract.numbers(TAB, self.rule, {"t": 1, "lr": lr, **constants})
        for name in ("wd", "clip_gradient", "rescale_grad"):
            if options.get(name) is not None:
                contract.number(TAB, name, options[name])
        super().__init__(learning_rate=learning_rate, **options)
        for name, value in constants.items():
            setattr(self, self.names.get(name, name), value)
        self.aggregate_num = sys.maxsize  # all weights of a dtype in one call of `update`

    # Where a key-value store has the optimizer, an error in `update` would only be printed: what can be refused
    # before, is.
    @property
    def param_dict(self):
        """The parameters by their index, as the Trainer sets them."""
        return self.__dict__["param_dict"]

    @param_dict.setter
    def param_dict(self, params):
        for p in params.values():
            _refuse_sparse(p.name, p._stype)
        self.__dict__["param_dict"] = params

    def set_learning_rate(self, lr):
        """Set another learning rate."""
        super().set_learning_rate(contract.number(TAB, "lr", lr))

    def create_state(self, index, weight):
        """Return the state of a weight, as it starts: a tuple of arrays of its shape."""
        _refuse_sparse(index, weight.stype)
        state = [TAB.start(weight.as_np_ndarray(), x) for x in self.rule.initial.values()]
        return tuple(x.as_nd_ndarray() for x in state)  # of the kind that updaters move and save

    def create_state_multi_precision(self, index, weight):
        """Return the state, and before it a float32 copy of a float16 weight if `multi_precision` is set."""
        create = super().create_state_multi_precision if self.multi_precision else self.create_state
        return create(index, weight)

    def update(self, index, weight, grad, state):
        """Make the step of a weight, or of a list of weights, in place."""
        if isinstance(index, (tuple, list)):
            self._update(index, weight, grad, state)
        else:
            self._update([index], [weight], [grad], [state])

    def update_multi_precision(self, index, weight, grad, state):
        """Make the step of a weight, or of weights of one dtype: of their float32 copies, if there are some."""
        if not isinstance(index, (tuple, list)):
            index, weight, grad, state = [index], [weight], [grad], [state]
        if self.multi_precision and weight[0].dtype == numpy.float16:
            copies, state = zip(*state, strict=True)
            self._update(index, copies, [g.astype("float32") for g in grad], state, weight)
        else:
            self._update(index, weight, grad, state)

    def _update(self, index, weights, grads, states, copied_to=()):
        rows = zip(weights, grads, map(tuple, states), strict=True)
        counts = {i: self._index_update_count.get(i, self.begin_num_update) + 1 for i in index}
        before, after = self.num_update, max(self.num_update, *counts.values())
        self.num_update = after  # the scheduler is asked for the rate of the step to be made
        try:
            alike: dict[tuple[int, float, float], list] = {}
            for i, row, lr, wd in zip(index, rows, self._get_lrs(index), self._get_wds(index), strict=True):
                numbers = counts[i], contract.number(TAB, "lr", lr), contract.number(TAB, "wd", wd)
                alike.setdefault(numbers, []).append(row)
            parts = []
            for numbers, some in alike.items():
                parts += self._parts(*numbers, some)
        finally:
            self.num_update = before

        def work():
            for part in parts:
                part.run()
            for x, copy in zip(copied_to, weights, strict=False):
                copy.copyto(x)
            self._index_update_count.update(counts)
            self.num_update = after

        finish(work)

    def _parts(self, t, lr, wd, rows):
        numbers = contract.numbers(TAB, self.rule, native.constants(self) | {"lr": lr, "t": t})
        options = {}
        if (scale := contract.number(TAB, "rescale_grad", self.rescale_grad)) != 1:
            options["scale"] = scale
        if wd:
            options["l2"] = wd
        if self.clip_gradient and self.clip_gradient > 0:
            options["clip"] = contract.number(TAB, "clip_gradient", self.clip_gradient)
        weights, grads, states = zip(*rows, strict=True)
        return self.rule_step.prepare(weights, grads, list(states), numbers, options)


_ADAM = """
    lazy_update (bool): only False: with True, which is MXNet's own default, the rows without a gradient would be left
        as they are (default: False)
"""
_EPSILON = """
MXNet's own Adam adds its `epsilon` (1e-8) before the bias is corrected: that is the "epsilon hat" of Kingma and Ba, and
stands for `epsilon * sqrt(1 - beta2**t)` at step t. Here it is added after that, as in the papers; the default is the
chapter's.
"""


class Adam(RuleOptimizer):
    """Adam of the chapter as an `mxnet.optimizer.Optimizer`, registered as "d2l_adam".

    >>> from d2l_adam.mxnet import mxnet
    >>> weight = mxnet.gluon.Parameter("weight", shape=(2,))
    >>> weight.initialize("ones")
    >>> trainer = mxnet.gluon.Trainer([weight], "d2l_adam", {"learning_rate": 0.1})
    >>> with mxnet.autograd.record():
    ...     loss = (weight.data() ** 2).sum()
    >>> loss.backward()
    >>> trainer.step(batch_size=1)
    >>> weight.data().round(3)
    array([0.9, 0.9])
    """

    rule_step = _NativeStep(TAB, spec.adam)
    names = {"eps": "epsilon"}
    default_learning_rate = 1e-3

    def __init__(self, learning_rate=None, beta1=0.9, beta2=0.999, epsilon=1e-6, lazy_update=False, **options):
        if lazy_update:
            raise ValueError("mxnet: lazy_update=True is refused, as this steps all rows; leave it out, or False")
        self._configure(learning_rate, {"beta1": beta1, "beta2": beta2, "eps": epsilon}, options)


class Yogi(Adam):
    """Yogi of the chapter as an `mxnet.optimizer.Optimizer`, registered as "yogi".

    >>> from d2l_adam.mxnet import mxnet
    >>> weight = mxnet.gluon.Parameter("weight", shape=(2,))
    >>> weight.initialize("ones")
    >>> trainer = mxnet.gluon.Trainer([weight], "yogi", {"learning_rate": 0.1})
    >>> with mxnet.autograd.record():
    ...     loss = (weight.data() ** 2).sum()
    >>> loss.backward()
    >>> trainer.step(batch_size=1)
    >>> weight.data().round(3)
    array([0.9, 0.9])
    """

    rule_step = _NativeStep(TAB, spec.yogi)
    default_learning_rate = 1e-2

    def __init__(self, learning_rate=None, beta1=0.9, beta2=0.999, epsilon=1e-3, **options):
        super().__init__(learning_rate, beta1, beta2, epsilon, **options)


def _register(cls, name):
    """Register a class with Gluon; where MXNet has that name, under `d2l_` and the name. Adam and Yogi keep theirs."""
    registry, name = mxnet.optimizer.Optimizer.opt_registry, name.lower()  # in which it is looked up
    if name in registry and registry[name].__module__.startswith("mxnet."):
        name = f"d2l_{name}"
    if registry.get(name) not in (Adam, Yogi):
        registry[name] = cls


for _class in (Adam, Yogi):
    native.describe(_class, "learning_rate", _ADAM.rstrip() + _TEXT + _EPSILON)
    _register(_class, _class.rule.name)


def made(rule: Rule) -> type:
    """Return a class of optimizers of a rule; if it is no dialect, registered with Gluon."""
    cls = _made(rule)
    if not rule.dialect:
        _register(cls, rule.name)
    return cls


@functools.cache
def _made(rule):
    cls = native.made(RuleOptimizer, TAB, rule, "learning_rate", (), {"learning_rate": None, "options": {}}, _TEXT)
    cls.default_learning_rate = rule.constants["lr"].default
    return cls


def _refuse_sparse(name, stype):
    if stype != "default":
        raise TypeError(f"mxnet: weight {name} is stored as {stype}; make its Parameter with stype='default'")


def carried(params: list, trainer: mxnet.gluon.Trainer) -> checkpoint.Carried:
    """Return what `params` of a Gluon `Trainer` with an optimizer of this module, or of MXNet, carry elsewhere."""
    make = 'a gluon.Trainer made with "d2l_adam" or "yogi"'
    if not isinstance(trainer, mxnet.gluon.Trainer):
        raise TypeError(f"mxnet: the optimizer is {type(trainer)}; give {make}")
    optimizer = trainer.optimizer
    if isinstance(optimizer, RuleOptimizer):
        rule, constants = optimizer.rule, native.constants(optimizer)
    else:
        given = vars(optimizer) | {"eps": getattr(optimizer, "float_stable_eps", None)}
        row, constants = native.of_library(TAB, optimizer, "mxnet.optimizer", given, {"lazy_update", "gamma2"}, make)
        rule = row.rule
    if optimizer.multi_precision:
        raise ValueError("mxnet: the file has no place for the copies of multi_precision; use trainer.save_states")
    if not trainer._kv_initialized:
        trainer._init_kvstore()
    if trainer._update_on_kvstore:
        raise ValueError("mxnet: the key-value store holds the state; make the Trainer with update_on_kvstore=False")
    numbers = {id(p): i for i, p in enumerate(trainer._params)}  # several may have one name
    for i, p in enumerate(params):
        if id(p) not in numbers:
            raise ValueError(f"mxnet: parameter {i} is none of the Trainer's; give those that it was made for")
        if p.grad_req == "null":
            raise ValueError(f"mxnet: parameter {i}, {p.name}, is not trained (its grad_req is 'null'); leave it out")
    indices = [numbers[id(p)] for p in params]
    arrays = [[x.as_np_ndarray() for x in p.list_data()] for p in params]

    def states():
        states = []
        for i, copies in zip(indices, arrays, strict=True):
            row = []
            for updater, x in zip(trainer._updaters, copies, strict=True):
                if updater.states.get(i) is None:
                    state = optimizer.create_state_multi_precision(i, x.as_nd_ndarray())
                    updater.states[i], updater.states_synced[i] = state, True
                row.append(tuple(x.as_np_ndarray() for x in Rule.states(updater.states[i])))
            states.append(row)
        return states

    def set_steps(steps):
        for x in arrays[0] if arrays else []:
            optimizer._all_index_update_counts.setdefault(x.ctx.device_id, {}).update(zip(indices, steps, strict=True))
        optimizer.num_update = max(steps, default=optimizer.num_update)

    return checkpoint.Carried(
        params=arrays,
        states=states,
        steps=[optimizer._index_update_count.get(i, optimizer.begin_num_update) for i in indices],
        set_steps=set_steps,
        rule=rule,
        constants=constants,
        one_clock=False,
    )
