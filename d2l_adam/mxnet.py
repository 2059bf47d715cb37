"""The MXNet tab: the spec on `mxnet.np.ndarray`, in the calling convention of `d2l.mxnet` and of Gluon.

Importing it turns on MXNet's NumPy semantics (`npx.set_np()`), as the chapter's first cell does, and
registers the optimizers "yogi" and "d2l_adam".
"""

import math
import sys
from ctypes import POINTER, byref, c_int, c_void_p

import numpy

from d2l_adam import binding, checkpoint, contract, fused, imports, spec

with (
    imports.framework(
        "mxnet",
        pip="--no-deps mxnet==1.9.1 && pip install 'graphviz<0.9' requests setuptools",
        apt="it needs two system libraries; on Debian and Ubuntu: apt-get install libgomp1 libquadmath0",
    ),
    imports.numpy_for_mxnet(),
    imports.hidden("DMLC_ROLE") as role,  # a server would start to serve before the optimizers below are there
):
    import mxnet
    from mxnet import autograd, npx
    from mxnet.numpy import sign, sqrt, square  # noqa: F401  the words of the spec

npx.set_np()

_THIS = sys.modules[__name__]
NAME = "mxnet"
PARAMETER = GRADIENT = mxnet.np.ndarray


def kind(x):
    return x.shape, numpy.dtype(x.dtype).name, x.ctx


def writable(x):
    return True


untracked = autograd.pause


def write(arrays, values):
    for x, value in zip(arrays, values, strict=True):
        value.copyto(x)


def fill(arrays, values):
    with autograd.pause():
        write(arrays, [mxnet.np.array(value, dtype=value.dtype) for value in values])


def float32(x):
    return x.astype("float32")


def asnumpy(x):
    return x.asnumpy()


def zeros(shape, dtype=None):
    return mxnet.np.zeros(shape, dtype)


def parameter(x):
    p = mxnet.np.array(x, dtype=x.dtype)
    p.attach_grad()
    return p


def give(p, g):
    p.grad[()] = mxnet.np.array(g, dtype=g.dtype)


_CPU = {mxnet.Context.devstr2type[name] for name in ("cpu", "cpu_pinned", "cpu_shared")}
_FULL = {mxnet.ndarray.ndarray._DTYPE_NP_TO_MX[numpy.dtype(name).type]: name for name in contract.FULL}
_LIB = mxnet.base._LIB  # its functions return 0 if they succeed


# What is still to be done may read and write the arrays. (To wait for the readers of one of them costs far more.)
settle = mxnet.nd.waitall


def lend(params, grads, states, adds):
    places: list[int] = []
    kind, place = _kinds(), c_void_p()
    get, to = _LIB.MXNDArrayGetData, byref(place)
    _, dtype, device, _ = first = kind(params[0])
    if dtype not in _FULL or device not in _CPU:
        return None
    for p, g, (v, s) in zip(params, grads, states, strict=True):
        shape, *like = its = kind(p)
        if not (its == kind(g, keep=False) == kind(v) == kind(s) and (*like,) == first[1:]):
            return None
        if 0 in shape:
            continue
        here = []
        for x in (p, v, s, g):
            if get(x.handle, to) or not place.value:
                return None
            here.append(place.value)
        places += *here[:3], *here, math.prod(shape)
    return fused.Memory(_FULL[dtype], places, (params, grads, states))


def _kinds():
    """Return a function that gives shape, dtype, kind and number of the device of an array, in MXNet's numbers."""
    ndim, dims, dtype, device, number = c_int(), POINTER(c_int)(), c_int(), c_int(), c_int()
    shape_to, dtype_to, device_to = (byref(ndim), byref(dims)), byref(dtype), (byref(device), byref(number))

    def kind(x, keep=True):
        handle = x.handle
        of, known = x.__dict__.get("_d2l_adam", (None, None))
        if of is not handle and type(x) is PARAMETER:
            if (
                _LIB.MXNDArrayGetShapeEx(handle, *shape_to)
                or _LIB.MXNDArrayGetDType(handle, dtype_to)
                or _LIB.MXNDArrayGetContext(handle, *device_to)
            ):
                return None, None, None, None
            known = tuple(dims[: ndim.value]), dtype.value, device.value, number.value
            if keep:  # for a handle they never change; a gradient has another each time
                x.__dict__["_d2l_adam"] = handle, known
        return known

    return kind


def step(rule):
    """Return `rule` as one step on MXNet arrays, in the convention of `d2l.mxnet`."""
    bound = binding.bind(_THIS, rule)

    def one_step(params, states, hyperparams):
        """Make one step in place. `params` are arrays; their `.grad` is read."""
        params = contract.listed(_THIS, "params", params)
        bound(params, [getattr(p, "grad", None) for p in params], states, hyperparams)

    return one_step


def regression(w, b):
    """Linear regression from weights `w` and bias `b`: its parameters, `loss(X, y)` and `gradients(X, y)`."""
    w, b = params = [parameter(x) for x in (w, b)]

    def loss(X, y):
        X, y = (mxnet.np.array(x, dtype=x.dtype) for x in (X, y))
        return ((mxnet.np.dot(X, w) + b - y) ** 2 / 2).mean()

    def gradients(X, y):
        with autograd.record():
            error = loss(X, y)
        error.backward()
        return ()  # the step reads them from p.grad

    return params, loss, gradients


_ARGUMENTS = """
Parameters
----------
learning_rate : float, optional
    The learning rate; left out, {default_learning_rate}, or that of `lr_scheduler` if there is one.
beta1 : float, default {beta1}
    Decay rate of the average of the gradient, in [0, 1).
beta2 : float, default {beta2}
    The same of its square.
epsilon : float, default {epsilon}
    Added to the root of the second average *after* the correction of its bias, as in the papers. MXNet's
    own Adam adds its `epsilon` (1e-8) before: that is the "epsilon hat" of Kingma and Ba, and stands
    for `epsilon * sqrt(1 - beta2**t)` at step t. The default is the chapter's.
lazy_update : bool, default False
    Only False: with True, which is MXNet's own default, the rows without a gradient would be left as they are.
**options
    What every optimizer of MXNet takes: `rescale_grad`, `clip_gradient`, `wd`, `lr_scheduler`,
    `multi_precision`, `begin_num_update`, `param_idx2name`, `param_dict`, `sym`.

The gradient that the rule sees is `clip(rescale_grad * grad + wd * weight, clip_gradient)`, as in MXNet's
own Adam; `lr_mult` and `wd_mult` of the parameter are applied. Weights may be `mx.np` or `mx.nd` arrays
of any shape, in float16, float32 or float64; the averages of float16 weights are float32, with or without
`multi_precision`. A row_sparse gradient is made dense first: each step moves all rows, as those whose
gradient is zero have averages too.

Where a key-value store makes the steps (`update_on_kvstore`, the default for several devices and for `dist_sync`),
MXNet prints an error that occurs in one, and goes on.
"""


@binding.native(_THIS, spec.adam, _ARGUMENTS)
class Adam(mxnet.optimizer.Optimizer):
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

    default_learning_rate = 1e-3
    num_update: int  # of the base class

    def __init__(self, learning_rate=None, beta1=0.9, beta2=0.999, epsilon=1e-6, lazy_update=False, **options):
        if lazy_update:
            raise ValueError("mxnet: lazy_update=True is refused, as this steps all rows; leave it out, or False")
        if learning_rate is None and options.get("lr_scheduler") is None:
            learning_rate = self.default_learning_rate
        lr = 0.0 if learning_rate is None else learning_rate
        contract.numbers(_THIS, self.constants, {"t": 1, "lr": lr, "beta1": beta1, "beta2": beta2, "eps": epsilon})
        for name in ("wd", "clip_gradient", "rescale_grad"):
            if options.get(name) is not None:
                contract.number(_THIS, name, options[name])
        super().__init__(learning_rate=learning_rate, **options)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

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
        super().set_learning_rate(contract.number(_THIS, "lr", lr))

    def averaging(self):
        """Return the constants of the rule but the learning rate."""
        return {"beta1": float(self.beta1), "beta2": float(self.beta2), "eps": float(self.epsilon)}

    def create_state(self, index, weight):
        """Return the averages of a weight, zeros: a pair of arrays of its shape."""
        _refuse_sparse(index, weight.stype)
        dtype = numpy.dtype(weight.dtype).name
        dtype = "float32" if dtype in contract.HALF else dtype
        zeros = (mxnet.np.zeros(weight.shape, dtype=dtype, ctx=weight.ctx) for _ in "vs")
        return tuple(x.as_nd_ndarray() for x in zeros)  # of the kind that updaters move and save

    def create_state_multi_precision(self, index, weight):
        """Return the averages, and before them a float32 copy of a float16 weight if `multi_precision` is set."""
        create = super().create_state_multi_precision if self.multi_precision else self.create_state
        return create(index, weight)

    def update(self, index, weight, grad, state):
        """Make the step of one weight, in place."""
        if grad.stype != "default":
            grad = grad.tostype("default")
        # A key-value store may sum the gradients elsewhere, in pinned memory for one.
        weight, grad = weight.as_np_ndarray(), grad.as_np_ndarray().as_in_ctx(weight.ctx)
        rescale, num_update = contract.number(_THIS, "rescale_grad", self.rescale_grad), self.num_update
        options = {"scale": rescale} if rescale != 1 else {}
        if wd := contract.number(_THIS, "wd", self._get_wd(index)):
            options["l2"] = wd
        clip = max(self.clip_gradient or 0, 0)
        states = [tuple(x.as_np_ndarray() for x in state)]
        wanted = (*options, "clip_gradient") if clip else tuple(options)
        taken, rest = self.loop.take([weight], [grad], states, fused.choice(), wanted)
        self._update_count(index)  # the scheduler is asked for the rate of the step to be made
        try:
            numbers = self.averaging() | {"lr": self._get_lr(index), "t": self._index_update_count[index]}
            numbers = contract.numbers(_THIS, self.constants, numbers)
        except Exception:
            self._index_update_count[index] -= 1
            self.num_update = num_update
            raise
        self.loop.run(taken, numbers, **options)
        for p, g, v, s, half in rest:
            with untracked():
                if half:
                    p, g = float32(p), float32(g)
                p, g = spec.conditioned(p, g, **options)
                if clip:
                    g = mxnet.np.clip(g, -clip, clip)
                write((weight, v, s), self.kernel(p, g, v, s, **numbers))


@binding.native(_THIS, spec.yogi, _ARGUMENTS)
@mxnet.optimizer.register
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

    default_learning_rate = 1e-2

    def __init__(self, learning_rate=None, beta1=0.9, beta2=0.999, epsilon=1e-3, **options):
        super().__init__(learning_rate, beta1, beta2, epsilon, **options)


def _refuse_sparse(name, stype):
    if stype != "default":
        raise TypeError(f"mxnet: weight {name} is stored as {stype}; make its Parameter with stype='default'")


def carried(params, trainer):
    """Return what the parameters `params` of a Gluon `Trainer` with an `Adam` or `Yogi` carry elsewhere."""
    optimizer = trainer.optimizer if isinstance(trainer, mxnet.gluon.Trainer) else None
    if not isinstance(optimizer, Adam):
        raise TypeError(f'mxnet: the optimizer is {type(trainer)}; give a gluon.Trainer made with "d2l_adam" or "yogi"')
    if optimizer.multi_precision:
        raise ValueError("mxnet: the file has no place for the copies of multi_precision; use trainer.save_states")
    if not trainer._kv_initialized:
        trainer._init_kvstore()
    if trainer._update_on_kvstore:
        raise ValueError("mxnet: the key-value store holds the averages; make the Trainer with update_on_kvstore=False")
    numbers = {id(p): i for i, p in enumerate(trainer._params)}  # several may have one name
    for i, p in enumerate(params):
        if id(p) not in numbers:
            raise ValueError(f"mxnet: parameter {i} is none of the Trainer's; give those that it was made for")
        if p.grad_req == "null":
            raise ValueError(f"mxnet: parameter {i}, {p.name}, is not trained (its grad_req is 'null'); leave it out")
    indices = [numbers[id(p)] for p in params]
    arrays = [[x.as_np_ndarray() for x in p.list_data()] for p in params]

    def averages():
        states = [[updater.states.get(i) for updater in trainer._updaters] for i in indices]
        for row, i, copies in zip(states, indices, arrays, strict=True):
            for d, (updater, x) in enumerate(zip(trainer._updaters, copies, strict=True)):
                if row[d] is None:
                    row[d] = updater.states[i] = optimizer.create_state(i, x)
                    updater.states_synced[i] = True
        return [[tuple(x.as_np_ndarray() for x in pair) for pair in row] for row in states]

    def set_steps(steps):
        for x in arrays[0] if arrays else []:
            optimizer._all_index_update_counts.setdefault(x.ctx.device_id, {}).update(zip(indices, steps, strict=True))
        optimizer.num_update = max(steps, default=optimizer.num_update)

    return checkpoint.Carried(
        params=arrays,
        averages=averages,
        steps=[optimizer._index_update_count.get(i, optimizer.begin_num_update) for i in indices],
        set_steps=set_steps,
        rule=optimizer.rule.__name__,
        constants=optimizer.averaging(),
        one_clock=False,
    )


mxnet.optimizer.Optimizer.opt_registry["d2l_adam"] = Adam  # "adam" remains MXNet's own

binding.publish(_THIS)

if role in ("server", "scheduler"):  # until the workers are done; then, as after `import mxnet`, there is no more to do
    mxnet.kvstore.KVStoreServer(mxnet.kvstore.create("dist")).run()
    sys.exit()
