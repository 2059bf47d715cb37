"""The rendered code makes the very steps of the bound tabs, by itself."""

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from frameworks import RULES, TABS, Problem

from d2l_adam import protocol, spec
from d2l_adam.__main__ import cli
from d2l_adam.render import NAMES, WIDTH, render


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
        self.functions[rule](self.params, *grads, self.states, self.hyperparams)


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
            np.testing.assert_array_equal(x, y)
    assert rendered.hyperparams == bound.hyperparams == {"lr": 0.01, "t": 51}


@pytest.mark.parametrize("tab", TABS)
def test_rendered_states_are_those_of_the_tab(tab):
    module = protocol.load(tab)
    made, own = functions(tab, "init_adam_states")["init_adam_states"](5), module.init_adam_states(5)
    assert len(made) == len(own) == 2
    for pair, other in zip(made, own, strict=True):
        assert all(isinstance(y, type(x)) for x, y in zip(pair, other, strict=True))
        for x, y in zip(pair, other, strict=True):
            np.testing.assert_array_equal(module.asnumpy(x), module.asnumpy(y), strict=True)


@pytest.mark.parametrize("tab", TABS[:-1])
def test_rendered_code_trains_in_d2l(tab):
    d2l, made = protocol.load(tab).d2l, functions(tab)
    batches, num_features = d2l.get_data_ch11(batch_size=10)
    for rule in RULES:
        _, losses = d2l.train_ch11(
            made[rule], made["init_adam_states"](num_features), {"lr": 0.01, "t": 1}, batches, num_features
        )
        assert 0.23 < losses[-1] < 0.26
    d2l.plt.close("all")


@pytest.mark.parametrize(("tab", "framework"), [("pytorch", "torch"), ("tensorflow", "tensorflow"), ("numpy", "numpy")])
def test_rendered_code_needs_its_framework_only(tab, framework):
    code = render(tab) + "\nimport sys\nassert 'd2l_adam' not in sys.modules\nprint(init_adam_states(2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "0." in done.stdout


@pytest.mark.parametrize("tab", [*TABS, "all"])
def test_the_source_is_tidy(tab):
    source = render(tab)
    assert source.endswith("\n")
    assert not any(line != line.rstrip() for line in source.splitlines())
    if tab != "all":  # rules stand as they do in the spec
        assert max(map(len, source.splitlines())) <= WIDTH


def test_the_rules_of_all_tabs_are_the_spec():
    made = functions("all")
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
    assert steps[1].run("adam", [[np.ones(1)]] * 2) == expected
    assert expected[0] == [(1.0 - 0.05 * 8 * 1.5 * 2.25, 1.5, 4.0)]


def test_render_prints_what_it_renders():
    run = CliRunner().invoke(cli, ["render", "--tab", "pytorch", "adam"])
    assert run.exit_code == 0
    assert run.output == render("pytorch", "adam")
    assert CliRunner().invoke(cli, ["render", "--tab", "mxnet"]).output == render("mxnet", *NAMES)
    assert "def yogi_rule(p, g, v, s, t" in CliRunner().invoke(cli, ["render", "--tab", "all", "yogi"]).output


@pytest.mark.parametrize(
    "end", ["return p - lr * g, v, s", "p, v = p - lr * g, v\n    return p, v, s", "v = p\n    return p, v, s"]
)
def test_a_rule_that_cannot_be_rendered_is_refused(end, monkeypatch, tmp_path):
    file = tmp_path / "rule.py"
    file.write_text(f"def sgd(p, g, v, s, t, lr):\n    {end}\n")
    namespace = {}
    exec(compile(file.read_text(), file, "exec"), namespace)
    monkeypatch.setitem(spec.RULES, "sgd", namespace["sgd"])
    monkeypatch.setattr("d2l_adam.render.NAMES", ("sgd",))
    with pytest.raises(ValueError, match="the rule sgd cannot be rendered; write it as assignments"):
        render("pytorch", "sgd")
    assert end.splitlines()[0] in render("all", "sgd")  # nothing is taken for a docstring
    assert "sgd_rule" in functions("all", "sgd")


@pytest.mark.parametrize(
    ("tab", "name", "words"),
    [
        ("jax", "adam", "unknown tab 'jax'; known: mxnet, pytorch, tensorflow, numpy, all"),
        ("pytorch", "sgd", "unknown name 'sgd' in tab pytorch; known: init_adam_states, adam, yogi"),
        ("all", "init_adam_states", "unknown name 'init_adam_states' in tab all; known: adam, yogi"),
    ],
)
def test_render_names_cause_and_cure(tab, name, words):
    with pytest.raises(ValueError, match=words):
        render(tab, name)
