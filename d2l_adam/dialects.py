"""Dialects as data: which rule, with which constants and from which start, the optimizers of other libraries are.

`TABLE` has them by their import path. Where the path alone is not enough, what else has to be given stands in brackets:
"torch.optim.Adam(amsgrad=True)". The maths is in `spec.py`.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from d2l_adam import spec
from d2l_adam.rule import Rule


@dataclass(frozen=True)
class Dialect:
    """An optimizer of a library.

    `rule` has its defaults and its start. `constants` and `state` say what it calls those of the rule, as far as it has
    them: `{"beta1": "betas[0]"}`, `{"v": "exp_avg"}`.
    """

    name: str
    rule: Rule
    constants: Mapping[str, str]
    state: Mapping[str, str]

    @property
    def options(self) -> dict[str, bool]:
        """What else is given to it."""
        return {"amsgrad": True} if self.name.endswith("(amsgrad=True)") else {}

    @property
    def path(self) -> str:
        """Where it is imported from."""
        return self.name.partition("(")[0]

    def as_dict(self) -> dict[str, Any]:
        """What `python -m d2l_adam dialects` prints of it."""
        defaults = {name: x.default for name, x in self.rule.constants.items()}
        names = {"constants": dict(self.constants), "state": dict(self.state)}
        return {"name": self.name, "rule": self.rule.name, "defaults": defaults, "initial": self.rule.initial} | names


_TORCH = {"beta1": "betas[0]", "beta2": "betas[1]", "gamma": "alpha"}
_TORCH |= {name: name for name in ("lr", "eps", "weight_decay", "momentum", "rho", "momentum_decay")}
_KERAS = {"lr": "learning_rate", "beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon", "gamma": "rho"}
_KERAS |= {name: name for name in ("weight_decay", "momentum", "rho")}
_MXNET = {"lr": "learning_rate", "eps": "epsilon", "gamma": "gamma1"}
_MXNET |= {name: name for name in ("beta1", "beta2", "momentum", "rho")}
_OPTAX = {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "gamma": "decay"}
_OPTAX |= {name: name for name in ("eps", "weight_decay", "momentum", "rho")}

_AVERAGES = "exp_avg exp_avg_sq"
_KERAS_AVERAGES = "_momentums _velocities"
_KERAS_ADADELTA = "_accumulated_grads _accumulated_delta_vars"
_TINY = {"v": 1e-6, "s": 1e-6}
TABLE: dict[str, Dialect] = {}


def _add(
    names: Mapping[str, str],
    name: str,
    rule: Callable[..., Any],
    state: str = "",
    initial: Mapping[str, float] | None = None,
    **defaults: float,
) -> None:
    """Put a row into the table; `state` are the names there, in the order of the rule."""
    known = Rule(rule, initial, defaults, name)
    constants = {x: names[x] for x in known.constants if x in names}
    TABLE[name] = Dialect(name, known, constants, dict(zip(known.state, state.split(), strict=False)))


_add(_TORCH, "torch.optim.Adam", spec.adam, _AVERAGES, lr=1e-3, eps=1e-8)
_add(_TORCH, "torch.optim.Adam(amsgrad=True)", spec.amsgrad, f"{_AVERAGES} max_exp_avg_sq", lr=1e-3)
_add(_TORCH, "torch.optim.AdamW", spec.adamw, _AVERAGES, lr=1e-3)
_add(_TORCH, "torch.optim.Adamax", spec.adamax, "exp_avg exp_inf", lr=2e-3)
_add(_TORCH, "torch.optim.NAdam", spec.nadam_scheduled, _AVERAGES, lr=2e-3)
_add(_TORCH, "torch.optim.SGD", spec.sgd, lr=1e-3)
_add(_TORCH, "torch.optim.SGD(momentum)", spec.sgd_momentum, "momentum_buffer", lr=1e-3)
_add(_TORCH, "torch.optim.Adagrad", spec.adagrad_outside, "sum", lr=1e-2)
_add(_TORCH, "torch.optim.RMSprop", spec.rmsprop_outside, "square_avg", lr=1e-2)
_add(_TORCH, "torch.optim.Adadelta", spec.adadelta_scaled, "square_avg acc_delta", lr=1.0)

_add(_KERAS, "keras.optimizers.Adam", spec.adam_hat, _KERAS_AVERAGES, lr=1e-3)
_add(_KERAS, "keras.optimizers.Adam(amsgrad=True)", spec.amsgrad_hat, f"{_KERAS_AVERAGES} _velocity_hats", lr=1e-3)
_add(_KERAS, "keras.optimizers.AdamW", spec.adam_hat, _KERAS_AVERAGES, lr=1e-3, weight_decay=0.004)
_add(_KERAS, "keras.optimizers.Adamax", spec.adamax_outside, "_m _u", lr=1e-3)
_add(_KERAS, "keras.optimizers.Nadam", spec.nadam_scheduled, _KERAS_AVERAGES, lr=1e-3, eps=1e-7, momentum_decay=1.0)
_add(_KERAS, "keras.optimizers.SGD", spec.sgd, lr=1e-2)
_add(_KERAS, "keras.optimizers.SGD(momentum)", spec.sgd_velocity, "momentums", lr=1e-2)
_add(_KERAS, "keras.optimizers.Adagrad", spec.adagrad, "_accumulators", {"s": 0.1}, lr=1e-3, eps=1e-7)
_add(_KERAS, "keras.optimizers.RMSprop", spec.rmsprop, "_velocities", lr=1e-3, gamma=0.9, eps=1e-7)
_add(_KERAS, "keras.optimizers.Adadelta", spec.adadelta_scaled, _KERAS_ADADELTA, lr=1e-3, rho=0.95, eps=1e-7)
_add(_KERAS, "keras.optimizers.Lion", spec.lion, "_momentums", lr=1e-3)

_add(_MXNET, "mxnet.optimizer.Adam", spec.adam_hat, "0 1", lr=1e-3, eps=1e-8)
_add(_MXNET, "mxnet.optimizer.SGD", spec.sgd, lr=1e-2)
_add(_MXNET, "mxnet.optimizer.SGD(momentum)", spec.sgd_velocity, "0", lr=1e-2)
_add(_MXNET | {"eps": "eps"}, "mxnet.optimizer.AdaGrad", spec.adagrad, "0", lr=1e-2, eps=1e-7)
_add(_MXNET, "mxnet.optimizer.RMSProp", spec.rmsprop, "0", lr=1e-3, gamma=0.9, eps=1e-8)

_add(_OPTAX, "optax.adam", spec.adam, "mu nu", eps=1e-8)
_add(_OPTAX, "optax.adamw", spec.adamw, "mu nu", weight_decay=1e-4)
_add(_OPTAX, "optax.amsgrad", spec.amsgrad_corrected, "mu nu nu_max")
_add(_OPTAX, "optax.adamax", spec.adamax, "mu nu")
_add(_OPTAX, "optax.nadam", spec.nadam, "mu nu")
_add(_OPTAX, "optax.adabelief", spec.adabelief, "mu nu")
_add(_OPTAX, "optax.yogi", spec.yogi, "mu nu", _TINY)
_add(_OPTAX, "optax.lion", spec.lion, "mu", weight_decay=1e-3)
_add(_OPTAX, "optax.sgd", spec.sgd)
_add(_OPTAX, "optax.sgd(momentum)", spec.sgd_momentum, "trace")
_add(_OPTAX, "optax.adagrad", spec.adagrad, "sum_of_squares", {"s": 0.1}, eps=1e-7)
_add(_OPTAX, "optax.rmsprop", spec.rmsprop, "nu", gamma=0.9, eps=1e-8)
_add(_OPTAX, "optax.adadelta", spec.adadelta_scaled, "e_g e_x")

_add(_TORCH, "torch_optimizer.Yogi", spec.yogi, _AVERAGES, _TINY, lr=1e-2)
_add(_TORCH, "torch_optimizer.AdaBelief", spec.adabelief, "exp_avg exp_avg_var", lr=1e-3, eps=1e-8)
_add(_TORCH, "pytorch_optimizer.Yogi", spec.yogi, _AVERAGES, _TINY, lr=1e-2)
_add(_TORCH, "pytorch_optimizer.AdaBelief", spec.adabelief, "exp_avg exp_avg_var", lr=1e-3)
_add(_TORCH, "pytorch_optimizer.Lion", spec.lion, "exp_avg", lr=1e-4)
_add(_KERAS, "tensorflow_addons.optimizers.Yogi", spec.yogi_hat, "m v", {"s": 1e-6}, lr=1e-2)
_add({}, "paper.Yogi", spec.yogi_uncorrected, lr=1e-2)
_add({}, "paper.AMSGrad", spec.amsgrad_uncorrected, lr=1e-3)


def find(name: str) -> Dialect:
    """Return a row of the table. Raises ValueError for an unknown name, and lists those near it."""
    name = name.removeprefix("tensorflow.").removeprefix("tf.")  # tf.keras
    if name not in TABLE:
        last = name.rpartition(".")[2].lower()
        near = [x for x in TABLE if x.partition("(")[0].rpartition(".")[2].lower() == last]
        near += [x for x in difflib.get_close_matches(name, TABLE, 4) if x not in near]
        known = f"near it: {', '.join(near)}" if near else "see `python -m d2l_adam dialects`"
        raise ValueError(f"unknown optimizer {name!r}; {known}")
    return TABLE[name]
