"""Over shapes, dtypes and gradients of every size: all tabs agree with the reference and with each other."""

import itertools

import numpy as np
import oracle
import pytest
from frameworks import HALVES, RULES, TABS, Problem, dtype_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FULL = ("float32", "float64")
SHAPES = st.one_of(st.sampled_from([(), (0,), (0, 3), (5, 1), (1000,), (40, 30)]), hnp.array_shapes(max_side=4))


@st.composite
def problems(draw, dtypes=FULL, sizes=("zero", "tiny", "usual", "huge")):
    """A parameter of any shape, and gradients for a few steps, each coordinate zero, tiny, usual or huge."""
    shape, dtype = draw(SHAPES), draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    limits = {"float32": (1e-25, 1e25), "float64": (1e-200, 1e200)}.get(dtype, (1e-3, 1e3))
    scales = [{"zero": 0.0, "tiny": limits[0], "usual": 1.0, "huge": limits[1]}[size] for size in sizes]
    steps = draw(st.integers(1, 4))
    grads = rng.normal(size=(steps, *shape)) * rng.choice(scales, size=(steps, *shape))
    return dtype, rng.normal(size=shape).astype(dtype_of(dtype)), grads.astype(dtype_of(dtype))


def close(ours, theirs, dtype, scale=1.0):
    """Equal but for a few roundings; `scale` is the size of what was added up. NaN equals NaN."""
    info = np.finfo(dtype)
    # TensorFlow's threads flush subnormals to zero.
    np.testing.assert_allclose(ours, theirs, rtol=16 * info.eps, atol=16 * info.eps * scale + 4 * info.tiny)


@pytest.mark.parametrize("rule", RULES)
@given(problem=problems(), lr=st.sampled_from([0.0, 1e-3, 0.5]))
def test_all_tabs_agree(rule, problem, lr):
    dtype, p, grads = problem
    runs = {tab: Problem(tab, [p], dtype, lr).run(rule, [[g] for g in grads]) for tab in TABS}
    largest = np.abs(grads.astype("float64")).max(initial=0.0)
    largest = min(largest, 1e150)  # whose square there is
    for one, other in itertools.combinations(TABS, 2):
        # XLA rounds a product and its sum once, not twice: what cancels is off by roundings of the terms.
        scales = (4.0, largest, largest**2) if "jax" in (one, other) else (4.0, 0.0, 0.0)
        for ours, theirs in zip(runs[one], runs[other], strict=True):
            for a, b, scale in zip(ours[0], theirs[0], scales, strict=True):
                assert a.shape == p.shape
                close(a, b, dtype, scale)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tab", TABS)
@given(problem=problems(sizes=("zero", "tiny", "usual")))
def test_every_tab_agrees_with_the_oracle(tab, rule, problem):
    """But for what float32 cannot hold at all: the square of a huge gradient."""
    dtype, p, grads = problem
    after = np.array([values[0] for values in Problem(tab, [p], dtype).run(rule, [[g] for g in grads])])
    expected = oracle.trajectory(rule, p, grads, 0.01)
    close(after[:, 0], expected[0], dtype, 4.0)
    # The averages add terms of the size of the largest gradient so far, and may cancel.
    largest = np.maximum.accumulate(np.abs(grads.astype("float64")), axis=0)
    for ours, theirs, size in ((after[:, 1], expected[1], largest), (after[:, 2], expected[2], largest**2)):
        close(ours, theirs, dtype, size.max(initial=0.0))


@pytest.mark.parametrize(("tab", "half"), HALVES)
@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
def test_half_precision_is_computed_in_float32_and_rounded_once(tab, half, rule, data):
    _, p, grads = data.draw(problems(dtypes=(half,), sizes=("zero", "tiny", "usual")))
    problem = Problem(tab, [p], half)
    (expected,) = Problem("numpy", [p.astype("float32")], "float32").run(rule, [[grads[0].astype("float32")]])
    (after,) = problem.run(rule, [[grads[0]]])
    spacing = np.abs(np.spacing(expected[0][0].astype("float16"))) if half == "float16" else 2**-8
    nearest = expected[0][0].astype("float32").astype(dtype_of(half)).astype("float64")
    # Equal, unless float32 results that differ in their last bit lie on both sides of a rounding.
    assert (np.abs(after[0][0] - nearest) <= spacing * np.maximum(1, np.abs(nearest))).all()
    assert np.count_nonzero(after[0][0] != nearest) <= 1 + 0.01 * p.size
    close(after[0][1], expected[0][1], "float32")
    close(after[0][2], expected[0][2], "float32")


@pytest.mark.parametrize(("tab", "half"), HALVES)
@pytest.mark.parametrize("rule", RULES)
def test_half_precision_trains(tab, half, rule):
    """Down a parabola from 1: at the default beta2, which bfloat16 itself would round to 1."""
    problem, x = Problem(tab, [[1.0, -1.0]], half, lr=0.05), np.array([1.0, -1.0])
    for _ in range(60):
        problem.set_grads([x])
        problem.step(rule)
        x = problem.values()[0][0]
    assert np.abs(x).max() < 0.2
    assert problem.module.TAB.kind(problem.params[0])[1] == half
    assert problem.module.TAB.kind(problem.states[0][0])[1] == "float32"


@pytest.mark.parametrize("tab", ["tensorflow", "numpy"])
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_a_half_parameter_takes_a_float32_gradient(tab, half):
    problem = Problem(tab, [[1.0]], half)
    problem.set_grads([[3e-8]], dtype="float32")  # float16 would round it to 0
    problem.step("adam")
    p, v, _ = problem.values()[0]
    assert v.item() == pytest.approx(3e-9, rel=1e-6)
    assert p.item() == pytest.approx(1 - 0.01 * 3e-8 / (3e-8 + 1e-6), abs=1e-3)


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tab", TABS)
def test_non_finite_gradients_spoil_their_own_coordinate_alike_everywhere(tab, rule, dtype):
    bad = [np.nan, np.inf, -np.inf, 1.0]
    problem = Problem(tab, [np.zeros(4)], dtype)
    first, second = problem.run(rule, [[bad], [np.ones(4)]])
    np.testing.assert_array_equal(first[0][0][:3], [np.nan] * 3)
    np.testing.assert_array_equal(first[0][1][:3], [np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(first[0][2][:3], [np.nan, np.inf, np.inf])
    np.testing.assert_array_equal(second[0][0][:3], [np.nan] * 3)
    np.testing.assert_array_equal(second[0][1][:3], [np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(second[0][2][:3], [np.nan, np.inf, np.inf])
    expected = oracle.trajectory(rule, 0.0, [1.0, 1.0], 0.01)[0]
    close(np.array([first[0][0][3], second[0][0][3]]), expected, dtype, 0.01)


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("rule", RULES)
def test_infinity_twice_is_nan_in_yogi_and_infinite_in_adam(tab, rule):
    """Yogi compares g squared with s: inf - inf is NaN, and so is its sign times infinity, in every tab."""
    _, second = Problem(tab, [[0.0]]).run(rule, [[[np.inf]], [[np.inf]]])
    np.testing.assert_array_equal(second[0][2], [np.inf if rule == "adam" else np.nan])


@pytest.mark.parametrize("rule", RULES)
@given(shape=hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=5), seed=st.integers(0, 999))
def test_parameters_need_not_be_contiguous(rule, shape, seed):
    """Transposed views (NumPy and PyTorch have them) step as their copies do, in the memory that they view."""
    import torch

    rng = np.random.default_rng(seed)
    value, grad = rng.normal(size=shape), rng.normal(size=shape[::-1])
    plain = Problem("numpy", [value.T.copy()])
    plain.set_grads([grad])
    plain.step(rule)
    expected = plain.values()[0][0]

    base = value.copy()
    problem = Problem("numpy", [value.T])
    problem.params = [base.T]
    problem.states = [tuple(np.zeros(shape).T for _ in range(2))]
    problem.set_grads([grad])
    problem.step(rule)
    np.testing.assert_array_equal(base.T, expected)

    base = torch.tensor(value)
    problem = Problem("pytorch", [value.T])
    problem.params = [base.permute(*reversed(range(base.ndim))).requires_grad_()]
    problem.set_grads([grad])
    problem.step(rule)
    assert not problem.params[0].is_contiguous()
    np.testing.assert_allclose(base.numpy().T, expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("tab", TABS)
@given(
    lr=st.floats(1e-6, 10),
    beta1=st.floats(0, 0.999),
    beta2=st.floats(0, 0.9999),
    eps=st.floats(1e-12, 1.0),
    t=st.integers(1, 10**9),
)
def test_hyperparams_override_the_chapter_s_values(tab, lr, beta1, beta2, eps, t):
    problem = Problem(tab, [[1.0]])
    problem.hyperparams = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "t": t}
    problem.set_grads([[0.3]])
    problem.step("adam")
    p, v, s = (x.item() for x in problem.values()[0])
    assert (p, v, s) == pytest.approx(oracle.step("adam", 1.0, 0.3, 0.0, 0.0, t, lr, beta1, beta2, eps), rel=1e-13)
    assert problem.hyperparams == {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "t": t + 1}


@pytest.mark.parametrize("tab", TABS)
def test_several_parameters_step_as_they_would_alone(tab):
    values, grads = (
        [np.ones((3, 2)), np.zeros(4), np.array(2.0)],
        [np.full((3, 2), 0.1), np.arange(4.0), np.array(-3.0)],
    )
    together = Problem(tab, values)
    together.set_grads(grads)
    together.step("yogi")
    for i, (value, grad) in enumerate(zip(values, grads, strict=True)):
        alone = Problem(tab, [value])
        alone.set_grads([grad])
        alone.step("yogi")
        for a, b in zip(alone.values()[0], together.values()[i], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("tab", TABS)
def test_a_step_of_no_parameters_advances_t(tab):
    problem = Problem(tab, [])
    problem.set_grads([])
    problem.step("adam")
    assert problem.hyperparams["t"] == 2


@given(rows=st.lists(st.integers(0, 4), max_size=12), dtype=st.sampled_from(["float16", "float32", "float64"]))
def test_duplicate_rows_of_indexed_slices_are_summed_first(rows, dtype):
    import tensorflow as tf

    values = np.random.default_rng(len(rows)).normal(size=(len(rows), 2)).astype(dtype)
    dense = np.zeros((5, 2), "float64")
    np.add.at(dense, rows, values.astype("float64"))
    problem = Problem("tensorflow", [np.ones((5, 2))], dtype)
    problem.grads = [tf.IndexedSlices(tf.constant(values), tf.constant(rows, tf.int64), tf.constant([5, 2], tf.int64))]
    problem.step("adam")
    _, v, s = problem.values()[0]
    full = "float32" if dtype == "float16" else dtype
    close(v, 0.1 * dense, full, 1.0)
    close(s, 0.001 * dense**2, full, 1e-2)


def test_an_embedding_in_tensorflow_trains_on_its_own_sparse_gradient():
    import tensorflow as tf

    table = tf.Variable(tf.ones((4, 2)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table, [1, 1, 3]) ** 2)
    (grad,) = tape.gradient(loss, [table])
    assert isinstance(grad, tf.IndexedSlices)
    problem = Problem("tensorflow", [np.ones((4, 2))], "float32")
    problem.params, problem.grads = [table], [grad]
    problem.step("adam")
    np.testing.assert_allclose(problem.values()[0][1][:, 0], [0, 0.4, 0, 0.2], rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_sparse_gradient_in_torch_is_summed_and_zeroed(rule):
    import torch

    weight = torch.ones((4, 2), dtype=torch.float64, requires_grad=True)
    torch.nn.functional.embedding(torch.tensor([1, 1, 3]), weight, sparse=True).square().sum().backward()
    assert weight.grad.is_sparse
    problem = Problem("pytorch", [np.ones((4, 2))])
    problem.params = [weight]
    problem.step(rule)
    expected = oracle.trajectory(rule, np.ones(4), [[0.0, 4.0, 0.0, 2.0]], 0.01)[:, 0]
    for ours, theirs in zip(problem.values()[0], expected, strict=True):
        np.testing.assert_allclose(ours, np.stack([theirs, theirs], axis=1), rtol=1e-15)
    assert not weight.grad.to_dense().any()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_sparse_half_gradients_are_summed_in_float32(half):
    """2048 + 1 is 2048 in either half: what rounds each sum loses the ones."""
    import tensorflow as tf
    import torch

    values, rows = np.array([[2048.0], [1.0], [1.0], [1.0]]), [0, 0, 0, 0]
    problem = Problem("pytorch", [np.ones((2, 1))], half)
    dtype = getattr(torch, half)
    problem.params[0].grad = torch.sparse_coo_tensor([rows], torch.tensor(values, dtype=dtype), (2, 1), dtype=dtype)
    problem.step("adam")
    assert problem.values()[0][1][0] == pytest.approx(205.1, rel=1e-6)
    problem = Problem("tensorflow", [np.ones((2, 1))], half)
    problem.grads = [tf.IndexedSlices(tf.cast(values, half), tf.constant(rows))]
    problem.step("adam")
    assert problem.values()[0][1][0] == pytest.approx(205.1, rel=1e-6)


def test_torch_zeroes_the_gradient_and_autograd_notices_the_step():
    import torch

    w = torch.ones(3, requires_grad=True)
    loss = (w * w).sum()
    w.grad = torch.ones(3)
    problem = Problem("pytorch", [np.ones(3)], "float32")
    problem.params = [w]
    problem.step("adam")
    assert not w.grad.any()
    assert w.requires_grad
    assert w.is_leaf
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # it would use the new w for the old loss


def test_mxnet_leaves_the_gradient_as_d2l_does():
    problem = Problem("mxnet", [[1.0]])
    problem.set_grads([[3.0]])
    problem.step("adam")
    assert problem.params[0].grad.item() == 3.0
