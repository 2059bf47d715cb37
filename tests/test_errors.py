"""Bad input: the error names cause and cure, and everything is as it was."""

from fractions import Fraction

import numpy as np
import pytest
from frameworks import HALVES, TABS, Problem

from d2l_adam import protocol

OTHER = {"mxnet": "pytorch", "pytorch": "tensorflow", "tensorflow": "numpy", "numpy": "mxnet", "jax": "numpy"}


def grads_without(problem, i):
    problem.grads[i] = None
    if problem.tab == "pytorch":
        problem.params[i].grad = None
    if problem.tab == "mxnet":
        problem.params[i] = problem.array([1.0, 2.0])  # never attached


def set_state(problem, i, v=None, s=None):
    states = list(problem.states)
    states[i] = (v if v is not None else states[i][0], s if s is not None else states[i][1])
    problem.states = states


def set_param(problem, i, value):
    problem.params[i] = value


def numbers(**change):
    return lambda problem: problem.hyperparams.update(change)


# name: (what to do to a sound problem, the error, words of its message)
CASES = {
    "fewer states": (lambda p: p.states.pop(), ValueError, "2 parameters, 2 gradients, 1 states; give one"),
    "fewer parameters": (lambda p: p.params.pop(), ValueError, "1 parameters, . gradients, 2 states; give one"),
    "a state of three": (
        lambda p: p.states.__setitem__(1, (*p.states[1], p.states[0][0])),
        ValueError,
        r"state of parameter 1 is \S+( arrays)?, not a pair \(v, s\)",
    ),
    "a state that is no pair": (
        lambda p: p.states.__setitem__(1, (p.states[1][0],)),
        ValueError,
        r"state of parameter 1 is \S+( arrays)?, not a pair \(v, s\)",
    ),
    "no gradient": (
        lambda p: grads_without(p, 1),
        ValueError,
        "gradient of parameter 1 is None; compute it, from a loss",
    ),
    "state of another shape": (
        lambda p: set_state(p, 1, s=p.state((3,), "float64")),
        ValueError,
        r"state s of parameter 1 has shape \(3,\), parameter 1 has \(2,\); make them alike",
    ),
    "state that would broadcast": (
        lambda p: set_state(p, 1, v=p.state((1,), "float64")),
        ValueError,
        r"state v of parameter 1 has shape \(1,\), parameter 1 has \(2,\)",
    ),
    "state of another dtype": (
        lambda p: set_state(p, 1, v=p.state((2,), "float32")),
        TypeError,
        "state v of parameter 1 is float32, parameter 1 is float64; convert the former to float64",
    ),
    "one array as both states": (
        lambda p: set_state(p, 1, v=p.states[1][1]),
        ValueError,
        "state s of parameter 1 is the same array as state v of parameter 1; give each its own",
    ),
    "one state for two parameters": (
        lambda p: p.states.__setitem__(1, p.states[0]),
        ValueError,
        "state v of parameter 1 is the same array as state v of parameter 0; give each its own",
    ),
    "a parameter given twice": (
        lambda p: (set_param(p, 1, p.params[0]), p.grads.__setitem__(1, p.grads[0])),
        ValueError,
        "parameter 1 is the same array as parameter 0; give each its own",
    ),
    "parameter of another framework": (
        lambda p: set_param(p, 1, Problem(OTHER[p.tab], [[1.0, 2.0]]).params[0]),
        TypeError,
        r"parameter 1 is \S+; this tab takes ",
    ),
    "state of another framework": (
        lambda p: set_state(p, 1, v=Problem(OTHER[p.tab], [[1.0, 2.0]]).params[0]),
        TypeError,
        r"state v of parameter 1 is \S+; this tab takes ",
    ),
    "state s of another framework": (
        lambda p: set_state(p, 1, s=Problem(OTHER[p.tab], [[1.0, 2.0]]).params[0]),
        TypeError,
        r"state s of parameter 1 is \S+; this tab takes ",
    ),
    "parameter that is a list": (lambda p: set_param(p, 1, [1.0, 2.0]), TypeError, "parameter 1 is builtins.list"),
    "hyperparams that is no dict": (
        lambda p: setattr(p, "hyperparams", (("lr", 0.1), ("t", 1))),
        TypeError,
        "hyperparams is builtins.tuple; give a dict",
    ),
    "no lr": (lambda p: p.hyperparams.pop("lr"), KeyError, "hyperparams lacks 'lr'; give for example"),
    "no t": (lambda p: p.hyperparams.pop("t"), KeyError, "hyperparams lacks 't'"),
    "no t, but all else": (
        lambda p: setattr(p, "hyperparams", {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6}),
        KeyError,
        "hyperparams lacks 't'; give for example",
    ),
    "unknown name": (numbers(beta_1=0.9), KeyError, "unknown hyperparameter 'beta_1'; known: t, lr, beta1, beta2, eps"),
    "t is 0": (numbers(t=0), ValueError, "hyperparameter 't' is 0; the time step is a whole number from 1 on"),
    "t is negative": (numbers(t=-1), ValueError, "hyperparameter 't' is -1; the time step is a whole number"),
    "t is not whole": (numbers(t=1.5), ValueError, "hyperparameter 't' is 1.5; the time step is a whole number"),
    "t is infinite": (numbers(t=float("inf")), ValueError, "hyperparameter 't' is inf; give a finite number"),
    "t is beyond floats": (numbers(t=10**400), ValueError, "hyperparameter 't' is 1000.*; give a finite number"),
    "lr is negative": (numbers(lr=-0.1), ValueError, "hyperparameter 'lr' is -0.1; the learning rate is 0 or more"),
    "lr is NaN": (numbers(lr=float("nan")), ValueError, "hyperparameter 'lr' is nan; give a finite number"),
    "lr is a string": (numbers(lr="0.1"), TypeError, "hyperparameter 'lr' is builtins.str; give a Python number"),
    "lr is an array": (numbers(lr=np.array([0.1])), TypeError, "'lr' is numpy.ndarray; give a Python number"),
    "beta1 is 1": (numbers(beta1=1), ValueError, r"hyperparameter 'beta1' is 1; a decay rate lies in \[0, 1\)"),
    "beta2 is negative": (numbers(beta2=-0.1), ValueError, "hyperparameter 'beta2' is -0.1; a decay rate"),
    "eps is 0": (numbers(eps=0.0), ValueError, "hyperparameter 'eps' is 0.0; it is more than 0"),
    "eps is 0 in float32": (numbers(eps=1e-50), ValueError, "hyperparameter 'eps' is 1e-50; .* within float32"),
    "eps is subnormal": (numbers(eps=2.0**-149), ValueError, r"'eps' is 1.4\S+e-45; .* \(from 2\*\*-126\)"),
    "eps is a little too small": (numbers(eps=np.nextafter(2.0**-126, 0)), ValueError, "hyperparameter 'eps' is 1.175"),
    "eps is too large": (numbers(eps=2.0**127), ValueError, "hyperparameter 'eps' is 1.7.*; .* within float32"),
    "lr is too large": (numbers(lr=2.0**127), ValueError, "hyperparameter 'lr' is 1.7.*; .* within float32"),
    "lr is infinite in float32": (numbers(lr=1e39), ValueError, "hyperparameter 'lr' is 1e.39; .* within float32"),
    "lr is infinite already": (numbers(lr=np.float32("inf")), ValueError, "'lr' is inf; give a finite number"),
    "beta2 is 1 as a float": (numbers(beta2=Fraction(10**20 - 1, 10**20)), ValueError, "'beta2' is 9.*; a decay rate"),
    "params is None": (lambda p: setattr(p, "params", None), TypeError, "params is builtins.NoneType; give a list"),
    "states is a number": (lambda p: setattr(p, "states", 1), TypeError, "states is builtins.int; give a list"),
    "params is one array": (
        lambda p: setattr(p, "params", p.params[0]),
        TypeError,
        r"params is \S+; give a list, with one entry a parameter",
    ),
    "state is one array": (
        lambda p: p.states.__setitem__(1, p.states[1][0]),
        ValueError,
        r"state of parameter 1 is \S+, not a pair \(v, s\)",
    ),
    "eps is negative": (numbers(eps=-1e-6), ValueError, "hyperparameter 'eps' is -1e-06; it is more than 0"),
    "eps is infinite": (numbers(eps=float("inf")), ValueError, "hyperparameter 'eps' is inf; give a finite number"),
}


def sound(tab, dtype="float64"):
    problem = Problem(tab, [[0.5, -1.5], [1.0, 2.0]], dtype)
    problem.states = list(problem.states)
    problem.set_grads([[1.0, 2.0], [3.0, -4.0]])
    return problem


def refused(problem, error, words, rule="adam"):
    """The step raises that error, and no byte of what it was given has changed."""
    before = snapshot(problem)
    with pytest.raises(error, match=words) as caught:
        problem.step(rule)
    assert caught.type is error
    assert problem.tab in str(caught.value)
    assert snapshot(problem) == before


def snapshot(problem):
    arrays = [*_leaves(problem.params), *_leaves(problem.states), *_leaves(problem.grads)]
    arrays += [getattr(p, "grad", None) for p in _leaves(problem.params)]
    return [_bytes(x) for x in arrays], repr(problem.hyperparams)


def _leaves(x):
    return [leaf for part in x for leaf in _leaves(part)] if isinstance(x, list | tuple) else [x]


def _bytes(x):
    package = type(x).__module__.split(".")[0]
    tab = {"torch": "pytorch", "jaxlib": "jax"}.get(package, package)
    if tab == "tensorflow":
        x = getattr(x, "values", x)  # of tf.IndexedSlices
    return protocol.load(tab).TAB.asnumpy(x).tobytes() if tab in TABS and hasattr(x, "dtype") else repr(x)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tab", TABS)
def test_bad_input_is_refused_and_nothing_changes(tab, case):
    change, error, words = CASES[case]
    problem = sound(tab)
    change(problem)
    refused(problem, error, words)


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("rule", ["adam", "yogi"])
@pytest.mark.parametrize("eps", [2.0**-126, np.nextafter(2.0**127, 0)])
def test_the_extremes_of_eps_and_lr_work_in_float32(tab, rule, eps):
    """Even where the gradient is 0, and the second moment with it."""
    problem = Problem(tab, [[1.0, 1.0]], "float32")
    problem.hyperparams |= {"eps": eps, "lr": np.nextafter(2.0**127, 0)}
    problem.set_grads([[0.0, 1.0]])
    problem.step(rule)
    p = problem.values()[0][0]
    assert p[0] == 1
    assert p[1] == pytest.approx(1 - 1.0 if eps > 1 else -(2.0**127), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("tab", TABS)
def test_the_same_problem_unspoilt_steps(tab):
    problem = sound(tab)
    before = problem.values()
    problem.step("adam")
    assert problem.hyperparams["t"] == 2
    for old, new in zip(before, problem.values(), strict=True):
        assert all((a != b).all() for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize("tab", TABS)
def test_a_constant_that_is_below_zero_by_rounding_is_zero(tab):
    """As schedules end; the right values are those of 0."""
    ours, right = sound(tab), sound(tab)
    ours.hyperparams |= {"lr": -1e-18, "beta1": -1e-18}
    right.hyperparams |= {"lr": 0.0, "beta1": 0.0}
    for problem in (ours, right):
        problem.step("adam")
    for one, other in zip(ours.values(), right.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, value in (("lr", -1e-9), ("beta1", -1e-9), ("eps", -1e-18), ("t", -1e-18)):
        problem = sound(tab)
        problem.hyperparams[name] = value
        refused(problem, ValueError, f"hyperparameter '{name}' is {value}")


@pytest.mark.parametrize("tab", ["tensorflow", "jax", "numpy"])
@pytest.mark.parametrize(
    ("grad", "error", "words"),
    [
        (np.ones(3), ValueError, r"gradient of parameter 1 has shape \(3,\), parameter 1 has \(2,\)"),
        (np.ones(1), ValueError, r"gradient of parameter 1 has shape \(1,\), parameter 1 has \(2,\)"),
        (np.ones(2, "float32"), TypeError, "gradient of parameter 1 is float32, parameter 1 is float64"),
    ],
)
def test_a_gradient_unlike_its_parameter_is_refused(tab, grad, error, words):
    problem = sound(tab)
    problem.grads[1] = problem.array(grad, grad.dtype.name)
    refused(problem, error, words)


@pytest.mark.parametrize("tab", ["tensorflow", "jax", "numpy"])
def test_a_gradient_of_another_framework_is_refused(tab):
    problem = sound(tab)
    problem.grads[1] = Problem("pytorch", [[1.0, 2.0]]).params[0].detach()
    refused(problem, TypeError, "gradient of parameter 1 is torch.Tensor; this tab takes ")


def test_a_torch_gradient_that_no_longer_fits_is_refused():
    """Torch checks shape and dtype when .grad is set; a parameter that is replaced through .data can outgrow it."""
    import torch

    for data, error, words in (
        (torch.ones(3, dtype=torch.float64), ValueError, r"has shape \(2,\), parameter 1 has \(3,\)"),
        (torch.ones(2, dtype=torch.float32), TypeError, "is float64, parameter 1 is float32"),
    ):
        problem = sound("pytorch")
        problem.params[1].data = data
        refused(problem, error, f"gradient of parameter 1 {words}")


@pytest.mark.parametrize("tab", TABS)
def test_integer_parameters_are_refused(tab):
    problem = sound(tab)
    value = np.array([1, 2], "int64")
    if tab == "pytorch":
        import torch

        problem.params[1] = torch.tensor(value)
        words = "parameter 1 is torch.int64; convert it to one of float16, bfloat16, float32, float64"
    elif tab == "mxnet":
        problem.params[1] = problem.array(value, "int64")
        problem.params[1].attach_grad()
        words = "parameter 1 is int64; convert it to one of float16, bfloat16, float32, float64"
    else:
        problem.params[1] = problem.parameter(value, "int64")
        words = "parameter 1 is int64; convert it to one of float16, bfloat16, float32, float64"
    refused(problem, TypeError, words)


@pytest.mark.parametrize("tab", ["tensorflow", "jax", "numpy"])
def test_as_many_gradients_as_parameters_are_wanted(tab):
    problem = sound(tab)
    problem.grads.pop()
    refused(problem, ValueError, "2 parameters, 1 gradients, 2 states; give one gradient and one state")


def test_a_state_on_another_device_is_refused():
    import torch

    problem = sound("pytorch")
    set_state(problem, 1, s=torch.zeros(2, dtype=torch.float64, device="meta"))
    with pytest.raises(ValueError, match="state s of parameter 1 is on meta, parameter 1 on cpu; move them together"):
        problem.step("adam")


@pytest.mark.parametrize(("tab", "half"), HALVES)
def test_half_precision_states_are_refused_with_the_cure(tab, half):
    problem = Problem(tab, [[1.0, 2.0]], half)
    problem.set_grads([[1.0, 1.0]])
    whole = problem.states[0][0]
    problem.states = [(whole, problem.parameter([0.0, 0.0]))]
    refused(problem, TypeError, f"state s of parameter 0 is {half}, parameter 0 is {half}; convert the former to")
    problem.states = [tuple(problem.array([0.0, 0.0]) for _ in range(2))]
    if tab == "tensorflow":
        problem.states = [tuple(problem.parameter([0.0, 0.0]) for _ in range(2))]
    refused(
        problem, TypeError, f"state v of parameter 0 is {half}, parameter 0 is {half}; convert the former to float32"
    )
    with pytest.raises(ValueError, match=f"a state in {half} is too coarse to average in; use dtype='float32'"):
        problem.module.init_adam_states(5, half)


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("feature_dim", [0, -1, 2.5, "5", None])
def test_init_adam_states_refuses_what_is_no_dimension(tab, feature_dim):
    with pytest.raises(ValueError, match=f"{tab}: feature_dim is {feature_dim!r}; give a whole number from 1 on"):
        protocol.load(tab).init_adam_states(feature_dim)


@pytest.mark.parametrize("tab", TABS)
def test_init_adam_states_refuses_an_unknown_dtype(tab):
    with pytest.raises(ValueError, match="unknown dtype 'int8'; known: 'float32', 'float64'"):
        protocol.load(tab).init_adam_states(5, "int8")


def test_numpy_views_that_cannot_be_written_are_refused():
    for i, change in enumerate(
        (
            lambda p: p.params[1].setflags(write=False),
            lambda p: p.params.__setitem__(1, np.broadcast_to(1.0, (2,))),
            lambda p: p.states[1][0].setflags(write=False),
        )
    ):
        problem = sound("numpy")
        change(problem)
        name = ("parameter 1", "parameter 1", "state v of parameter 1")[i]
        refused(problem, ValueError, f"{name} cannot be written in place; give a copy of this view")


def test_an_expanded_torch_tensor_is_refused():
    import torch

    problem = sound("pytorch")
    set_state(problem, 1, s=torch.zeros(1, dtype=torch.float64).expand(2))
    refused(problem, ValueError, "state s of parameter 1 cannot be written in place")


def test_tensorflow_says_that_it_is_for_eager_use():
    import tensorflow as tf

    problem = sound("tensorflow")
    with pytest.raises(TypeError, match=r"for eager use.*frozen|freeze.*call the step outside of tf.function"):
        tf.function(lambda: problem.step("adam"))()
    assert problem.hyperparams == {"lr": 0.01, "t": 1}
    assert problem.values()[1][0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("values", "rows", "error", "words"),
    [
        (np.ones(2), [0, 2], ValueError, "gradient of parameter 0 has rows 0 to 2; parameter 0 has 2, numbered from 0"),
        (np.ones(2), [-1, 0], ValueError, "gradient of parameter 0 has rows -1 to 0; parameter 0 has 2"),
        (
            np.ones((2, 3)),
            [0, 1],
            ValueError,
            r"values of shape \(2, 3\) at rows of shape \(2,\), int64; parameter 0 has shape \(2,\)",
        ),
        (np.ones(3), [0, 1], ValueError, r"has values of shape \(3,\) at rows of shape \(2,\)"),
        (np.ones(2, "float32"), [0, 1], TypeError, "gradient of parameter 0 is float32, parameter 0 is float64"),
    ],
)
def test_indexed_slices_that_do_not_fit_are_refused(values, rows, error, words):
    import tensorflow as tf

    problem = sound("tensorflow")
    problem.grads[0] = tf.IndexedSlices(tf.constant(values), tf.constant(rows, tf.int64))
    refused(problem, error, words)


HALF_FOR_ANOTHER = [("float16", "float32"), ("bfloat16", "float32"), ("bfloat16", "float16"), ("float16", "float64")]


@pytest.mark.parametrize(("half", "dtype"), HALF_FOR_ANOTHER)
def test_half_precision_indexed_slices_are_for_that_half_only(half, dtype):
    import tensorflow as tf

    problem = sound("tensorflow", dtype)
    problem.grads[0] = tf.IndexedSlices(tf.ones(2, half), tf.constant([0, 1]))
    refused(problem, TypeError, f"gradient of parameter 0 is {half}, parameter 0 is {dtype}; convert the for")


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize(("half", "dtype"), HALF_FOR_ANOTHER)
def test_half_precision_sparse_gradients_in_torch_are_for_that_half_only(half, dtype):
    import torch

    problem = sound("pytorch", half)
    problem.params[0].grad = problem.params[0].grad.to_sparse()
    problem.params[0].data = problem.params[0].data.to(getattr(torch, dtype))
    problem.states = sound("pytorch", dtype).states
    with pytest.raises(TypeError, match=f"gradient of parameter 0 is {half}, parameter 0 is {dtype}; convert the for"):
        problem.step("adam")


def test_indexed_slices_for_a_scalar_or_at_no_rows_are_refused():
    import tensorflow as tf

    problem = Problem("tensorflow", [1.0])
    problem.grads = [tf.IndexedSlices(tf.constant([1.0], tf.float64), tf.constant([0]))]
    refused(problem, ValueError, r"parameter 0 has shape \(\); give a value for each row")
    problem = sound("tensorflow")
    problem.grads[0] = tf.IndexedSlices(tf.ones(2, tf.float64), tf.constant([0.0, 1.0]))
    refused(problem, ValueError, r"rows of shape \(2,\), float32")


def test_a_tensorflow_variable_of_any_shape_is_taken_at_its_value_s():
    import tensorflow as tf

    problem = Problem("tensorflow", [[1.0, 2.0]])
    problem.params = [tf.Variable(tf.constant([1.0, 2.0], tf.float64), shape=tf.TensorShape(None))]
    problem.set_grads([[1.0]])
    refused(problem, ValueError, r"gradient of parameter 0 has shape \(1,\), parameter 0 has \(2,\)")
    problem.set_grads([[1.0, 1.0]])
    problem.step("adam")
    np.testing.assert_allclose(problem.values()[0][0], [0.99, 1.99], rtol=1e-6)


@pytest.mark.parametrize("kind", [np.matrix, np.ma.MaskedArray])
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_numpy_arrays_that_compute_otherwise_are_refused(kind):
    problem = Problem("numpy", [np.ones((2, 2))])
    problem.set_grads([np.ones((2, 2))])
    problem.grads = [kind(problem.grads[0])]
    refused(problem, TypeError, f"gradient of parameter 0 is {kind.__name__}, parameter 0 is float64")
    problem.params = [kind(problem.params[0])]
    refused(problem, TypeError, f"parameter 0 is {kind.__name__}; convert it to one of")


def test_a_sparse_torch_state_is_refused():
    import torch

    problem = sound("pytorch")
    set_state(problem, 1, v=torch.zeros(2, dtype=torch.float64).to_sparse())
    with pytest.raises(ValueError, match="state v of parameter 1 cannot be written in place"):
        problem.step("adam")
