"""The rendered code makes the very steps of the bound tabs, by itself."""

import contextlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from frameworks import RULES, TABS, Problem

from d2l_adam import protocol, spec
from d2l_adam.__main__ import cli
from d2l_adam.render import NAMES, WIDTH, render
from d2l_adam.rule import Rule
from d2l_adam.spec import maximum, sign, sqrt, square


def functions(tab, *names):
    namespace = {}
    exec(compile(render(tab, *names), f"<{tab}>", "exec"), namespace)
    return namespace


class Rendered(Problem):
    """A problem that steps with the rendered code instead of the tab's."""

    def __init__(self, *args):
        super().__init__(*args)
        self.functions = functions(self.tab)

    def step(self, rule):
        grads = () if self.tab in ("mxnet", "pytorch") else (self.grads,)
        with in_float64(self.tab):
            self.functions[rule](self.params, *grads, self.states, self.hyperparams)


def in_float64(tab):
    """A context in which code of a tab may compute in float64: JAX's has to be asked for it."""
    return protocol.load(tab).jax.enable_x64(True) if tab == "jax" else contextlib.nullcontext()


RNG = np.random.default_rng(1)
REGIMES = {
    "order one": RNG.normal(size=(50, 4)),
    "1e-4": 1e-4 * RNG.normal(size=(50, 4)),
    "large": 1e4 * RNG.normal(size=(50, 4)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tab", TABS)
def test_rendered_code_makes_the_tabs_own_steps_bit_for_bit(tab, rule, regime, dtype):
    grads = [[g[:3].reshape(3, 1), g[3:]] for g in REGIMES[regime]]
    shapes = [np.ones((3, 1)), np.ones(1)]
    bound, rendered = Problem(tab, shapes, dtype), Rendered(tab, shapes, dtype)
    steps = [problem.run(rule, grads) for problem in (bound, rendered)]
    for one, other in zip(*steps, strict=True):
        for x, y in zip(sum(one, ()), sum(other, ()), strict=True):
            if tab == "jax":  # compiled, operations are fused and round less
                eps = np.finfo(dtype).eps
                np.testing.assert_allclose(x, y, rtol=100 * eps, atol=eps * np.abs(REGIMES[regime]).max())
            else:
                np.testing.assert_array_equal(x, y)
    assert rendered.hyperparams == bound.hyperparams == {"lr": 0.01, "t": 51}


def lion(p, g, v, t, lr, beta1=0.9, beta2=0.99):
    """Chen and others, 2023, without weight decay."""
    p = p - lr * sign(beta1 * v + (1 - beta1) * g)
    v = beta2 * v + (1 - beta2) * g
    return p, v


def amsgrad(p, g, v, s, s_max, t, lr, beta1=0.9, beta2=0.999, eps=1e-6):
    """Reddi, Kale and Kumar, 2018."""
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    s_max = maximum(s_max, s)
    p = p - lr * v / (1 - beta1**t) / (sqrt(s_max / (1 - beta2**t)) + eps)
    return p, v, s, s_max


def of_everything(p, g, v, t, lr=0.5, floor=-0.25, decay=(1 / 8), lr_=3.0):
    """Changed constants and gradients; words of numbers, of an array and a number in either order, of two arrays."""
    g = g + decay * p
    lr = lr * sqrt(1 - square(decay)) / maximum(t, abs(floor)) * sign(lr_)
    v = maximum(floor, maximum(g, -1.0)) + v
    p = p - lr * (maximum(v, g) - abs(v))
    return p, v


HYPERPARAMS = {"lr": 0.01, "momentum": 0.5, "gamma": 0.9, "rho": 0.9}


@pytest.mark.parametrize("rule", [*spec.RULES.values(), lion, amsgrad, of_everything])
@pytest.mark.parametrize("tab", TABS)
def test_rendered_code_makes_the_steps_of_a_loop_over_numbers(tab, rule):
    module, known = protocol.load(tab), Rule(rule)
    step = functions(tab, rule)[rule.__name__]
    grads = np.random.default_rng(2).normal(size=(5, 6))
    grads[1] = 0
    problem = Problem(tab, [np.ones((2, 2)), np.zeros(2)])
    states = [tuple(problem.state(np.shape(p), "float64") for _ in known.state) for p in ([[1.0] * 2] * 2, [0.0] * 2)]
    given = {x: HYPERPARAMS[x] for x, y in known.constants.items() if y.default is None or x == "lr"}
    problem.hyperparams = given | ({"t": 1} if known.reads_t else {})
    rows = [(x, *[0.0] * len(known.state)) for x in (1.0, 1.0, 1.0, 1.0, 0.0, 0.0)]
    for t, g in enumerate(grads, 1):
        problem.set_grads([g[:4].reshape(2, 2), g[4:]])
        problem.states = [known.book_shape(state) for state in states] if known.state else None
        problem.module = SimpleNamespace(step=lambda _: step)
        with in_float64(tab):
            problem.step(rule)
        if tab == "jax" and known.state:
            states = [*map(known.states, problem.states)]
        for i, row in enumerate(rows):
            new = rule(row[0], g[i].item(), *row[1:], t=t, **given)
            rows[i] = new if known.state else (new,)
    assert problem.hyperparams == given | ({"t": 6} if known.reads_t else {})
    for j in range(1 + len(known.state)):
        arrays = [(p, *state)[j] for p, state in zip(problem.params, states, strict=True)]
        found = np.concatenate([np.ravel(module.TAB.asnumpy(x)) for x in arrays])
        np.testing.assert_allclose(found, [row[j] for row in rows], rtol=1e-13, atol=1e-15)
    if tab == "pytorch":
        assert not any(p.grad.any() for p in problem.params)


@pytest.mark.parametrize("tab", TABS)
def test_rendered_states_are_those_of_the_tab(tab):
    module = protocol.load(tab)
    made, own = functions(tab, "init_adam_states")["init_adam_states"](5), module.init_adam_states(5)
    assert len(made) == len(own) == 2
    for pair, other in zip(made, own, strict=True):
        assert all(isinstance(y, type(x)) for x, y in zip(pair, other, strict=True))
        for x, y in zip(pair, other, strict=True):
            np.testing.assert_array_equal(module.TAB.asnumpy(x), module.TAB.asnumpy(y), strict=True)


@pytest.mark.parametrize("tab", TABS)
def test_every_rule_of_the_book_has_the_states_that_it_is_trained_with(tab):
    made, module = functions(tab, *NAMES), protocol.load(tab)
    for name in NAMES:
        if name not in spec.RULES:
            rule = {"momentum": "sgd_momentum"}.get(name.split("_")[1], name.split("_")[1])
            states = made[name](5)
            assert len(states) == 2
            for state, shape in zip(states, ((5, 1), (1,)), strict=True):
                assert isinstance(state, tuple) == (len(Rule(rule).state) > 1)
                arrays = Rule(rule).states(state)
                assert len(arrays) == len(Rule(rule).state)
                assert all(
                    (np.shape(module.TAB.asnumpy(x)), module.TAB.asnumpy(x).any()) == (shape, False) for x in arrays
                )


@pytest.mark.parametrize("tab", TABS[:-1])
def test_rendered_code_trains_in_d2l(tab):
    d2l, made = protocol.load(tab).d2l, functions(tab)
    batches, num_features = d2l.get_data_ch11(batch_size=10)
    for rule in RULES:
        states = made["init_adam_states"](num_features)
        _, losses = d2l.train_ch11(made[rule], states, {"lr": 0.01, "t": 1}, batches, num_features, num_epochs=1)
        assert 0.23 < losses[-1] < 0.26
    d2l.plt.close("all")


@pytest.mark.parametrize(
    ("tab", "framework"), [("pytorch", "torch"), ("tensorflow", "tensorflow"), ("jax", "jax"), ("numpy", "numpy")]
)
def test_rendered_code_needs_its_framework_only(tab, framework):
    code = render(tab) + "\nimport sys\nassert 'd2l_adam' not in sys.modules\nprint(init_adam_states(2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "0." in done.stdout


@pytest.mark.parametrize("tab", [*TABS, "all"])
def test_the_source_is_tidy(tab):
    source = render(tab, *(spec.RULES if tab == "all" else NAMES))
    assert source.endswith("\n")
    assert not any(line != line.rstrip() for line in source.splitlines())
    if tab != "all":  # rules stand as they do in the spec
        assert max(map(len, source.splitlines())) <= WIDTH


def test_the_rules_of_all_tabs_are_the_spec():
    made = functions("all", *spec.RULES)
    for name, rule in spec.RULES.items():
        assert made[f"{name}_rule"].__code__.co_code == rule.__code__.co_code
        assert made[f"{name}_rule"].__code__.co_consts[1:] == rule.__code__.co_consts[1:]  # the first is the docstring
        assert made[f"{name}_rule"].__defaults__ == rule.__defaults__


@pytest.mark.parametrize("tab", TABS)
def test_a_change_of_the_spec_changes_what_is_rendered(tab, monkeypatch, tmp_path):
    source = (
        "def adam(p, g, v, s, t, lr, beta1=0.5, eps=0.25):\n"
        "    v = (beta1 + g) * v\n"
        "    p = p - (lr + lr + lr + lr + lr) * (v + v + v + v + v + v + v + v) * (sqrt(s) + eps)\n"
        "    return p, v, s\n"
    )
    file = tmp_path / "other.py"
    file.write_text(source)
    namespace = {}
    exec(compile(source, file, "exec"), namespace)
    monkeypatch.setitem(spec.RULES, "adam", namespace["adam"])
    rendered = render(tab, "adam")
    assert "beta1, eps = 0.5, 0.25\n" in rendered
    assert "square" not in rendered
    assert rendered.count("hyperparams['lr']") == 5
    steps = [problem(tab, [np.ones(1)]) for problem in (Problem, Rendered)]
    for step in steps:
        step.states = [(step.parameter(np.ones(1)), step.parameter(np.full(1, 4.0)))]
    expected = steps[0].run(namespace["adam"], [[np.ones(1)]] * 2)
    np.testing.assert_allclose(steps[1].run("adam", [[np.ones(1)]] * 2), expected, rtol=1e-14)
    np.testing.assert_allclose(np.ravel(expected[0]), [1.0 - 0.05 * 8 * 1.5 * 2.25, 1.5, 4.0], rtol=1e-14)


SGD_IN_JAVASCRIPT = """\
function sgd(p, g, t, { lr }) {
  p = p - lr * g;
  return [p];
}
"""


def test_render_prints_what_it_renders():
    run = CliRunner().invoke(cli, ["render", "--tab", "pytorch", "adam"])
    assert run.exit_code == 0
    assert run.output == render("pytorch", "adam")
    chapter = render("mxnet", "init_adam_states", "adam", "yogi")
    assert CliRunner().invoke(cli, ["render", "--tab", "mxnet"]).output == render("mxnet") == chapter
    run = CliRunner().invoke(cli, ["render", "--tab", "numpy", *NAMES])
    assert run.output == render("numpy", *NAMES)
    assert CliRunner().invoke(cli, ["render", "--tab", "javascript", "sgd"]).output == SGD_IN_JAVASCRIPT
    assert "def yogi_rule(p, g, v, s, t" in CliRunner().invoke(cli, ["render", "--tab", "all", "yogi"]).output


def made_of(body, folder):
    """A function of these lines, its source at hand."""
    (folder / "rule.py").write_text(f"def rule(p, g, v, t, lr, beta=0.5):\n    {body}\n")
    namespace = {word: getattr(spec, word) for word in ("maximum", "sign", "sqrt", "square")}
    exec(compile((folder / "rule.py").read_text(), folder / "rule.py", "exec"), namespace)
    return namespace["rule"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return p - lr * g, v", "assignments"),
        ("p, v = p - lr * g, v\n    return p, v", "assignments"),
        ("old = p\n    p = p - lr * g\n    v = p - old\n    return p, v", "assignments"),
        ("old = +v\n    v = v + g\n    p = p - old\n    return p, v", "assignments"),
        ("v = w = v + g\n    return p, v", "assignments"),
        ("v *= beta\n    return p, v", "assignments"),
        ("v = v + g\n    return v, p", "assignments"),
        ("states = v + g\n    p = p - states\n    return p, v", "give states another name in it"),
        ("np = v + g\n    p = p - np\n    return p, v", "give np another name in it"),
    ],
)
def test_a_rule_that_cannot_be_rendered_is_refused(body, words, tmp_path):
    rule = made_of(body, tmp_path)
    cure = "write it as assignments .* and `return p, v`" if words == "assignments" else words
    with pytest.raises(ValueError, match=f"the rule rule cannot be rendered; {cure}"):
        render("numpy", rule)
    assert body.splitlines()[0] in render("all", rule)  # nothing is taken for a docstring
    assert "rule_rule" in functions("all", rule)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("v *= beta\n    return p, v", "assignments"),
        ("v = w = v + g\n    return p, v", "assignments"),
        ("p, v = p - lr * g, v\n    return p, v", "assignments"),
        ("p = p - lr * (g > 0)\n    return p, v", "assignments"),
        ("p = p // lr\n    return p, v", "assignments"),
        ("p = sqrt(x=p)\n    return p, v", "assignments"),
        ("return p", "assignments"),
        ("return p, v, v", "assignments"),
        ("var = v + g\n    return p - var, v", "give var another name in it"),
    ],
)
def test_what_javascript_would_take_for_something_else_is_refused(body, words, tmp_path):
    cure = r"write it as assignments .* and `return p, v`" if words == "assignments" else words
    with pytest.raises(ValueError, match=f"the rule rule cannot be rendered; {cure}"):
        render("javascript", made_of(body, tmp_path))


def test_a_rule_without_source_is_refused():
    namespace = {}
    exec("def gone(p, g, t, lr):\n    p = p - lr * g\n    return p", namespace)
    for rule in (namespace["gone"], lambda p, g, t, lr: p - lr * g):
        for tab in ("pytorch", "javascript", "all"):
            with pytest.raises(ValueError, match=f"the source of {rule.__name__} is not at hand; define it by `def`"):
                render(tab, rule)
    with pytest.raises(TypeError, match=r"give a Python function rule\(p, g"):
        render("pytorch", np.sqrt)


@pytest.mark.parametrize(
    ("tab", "name", "words"),
    [
        ("caffe", "adam", "unknown tab 'caffe'; known: mxnet, pytorch, tensorflow, jax, numpy, javascript, all"),
        ("pytorch", "lyon", "unknown name 'lyon' in tab pytorch; known: init_adam_states, init_momentum_states, "),
        ("all", "init_adam_states", "unknown name 'init_adam_states' in tab all; known: adam, yogi, sgd, "),
    ],
)
def test_render_names_cause_and_cure(tab, name, words):
    with pytest.raises(ValueError, match=words):
        render(tab, name)
