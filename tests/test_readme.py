"""What the README and the guide show is so: their code runs, their spec is the spec, their numbers are the numbers."""

import ast
import inspect
import json
import linecache
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from matplotlib import pyplot

import d2l_adam
from d2l_adam import data, fused, spec
from d2l_adam.render import render
from distributed import ENGINES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = {file.stem: file.read_text(encoding="utf-8") for file in (ROOT / "chapter_optimization" / "guide").glob("*.md")}


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


SHOWN, YOGI, IN_FIT, ANY_RULE, ONE_FILE = blocks(README)
(RENDERED,) = blocks(GUIDE["chapter"])
CHAPTER, CONCISE, OTHERS, TRAIN = blocks(GUIDE["notebook"])
TORCH, KERAS, GLUON, OPTAX = blocks(GUIDE["optimizers"])
(SPEED,), (CARRY,), (TESTING,), (FRAMEWORK,) = (blocks(GUIDE[x]) for x in ("speed", "files", "check", "frameworks"))
LIKE, BEGUN, INITIAL = blocks(GUIDE["dialects"])
RULE, STEP, IN_TORCH, IN_KERAS, IN_GLUON, LION_RENDERED, GOES_ON = blocks(GUIDE["rules"])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_the_readme_is_short_and_its_examples_run(monkeypatch, tmp_path, capsys):
    assert len(README.splitlines()) <= 150
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(YOGI, {})
    pyplot.close("all")
    assert "loss: 0.24" in capsys.readouterr().out
    namespace = {}
    exec(IN_FIT, namespace)
    assert namespace["model"].optimizer.rule.function is spec.yogi
    exec(ANY_RULE, namespace)
    assert namespace["Lion"]([torch.nn.Parameter(torch.ones(1))], lr=1e-3).rule.name == "lion"
    exec(ONE_FILE, namespace)
    assert namespace["history"].losses[-1] == pytest.approx(oracle.curve("adam")[-1], abs=1e-6)


def test_the_spec_shown_is_the_spec():
    function = ast.parse(inspect.getsource(spec.adam)).body[0]
    del function.body[0]  # the docstring
    assert ast.dump(ast.parse(SHOWN).body[0]) == ast.dump(function)


def test_the_code_shown_is_what_render_prints():
    assert render("pytorch", "adam") == RENDERED


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_the_chapter_s_calls_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {}
    exec(CHAPTER, namespace)
    exec(CONCISE, namespace)
    assert capsys.readouterr().out.count("loss: 0.24") == 3
    exec(OTHERS, namespace)
    assert capsys.readouterr().out.count("loss: 0.24") == 5
    pyplot.close("all")


def test_the_choice_of_steps_runs():
    exec(SPEED, {})
    assert fused.choice() is None


def test_train_runs(capsys):
    exec(TRAIN, {})
    assert float(capsys.readouterr().out) == pytest.approx(oracle.curve("yogi")[-1], abs=1e-6)


@pytest.mark.parametrize("code", [TORCH, KERAS, GLUON, OPTAX], ids=["torch", "keras", "gluon", "optax"])
def test_each_framework_has_its_own_optimizer(code):
    namespace = {}
    exec(code, namespace)
    optimizer = namespace.get("optimizer") or (namespace.get("trainer") or namespace["model"]).optimizer
    held = namespace["state"][1] if code is OPTAX else optimizer  # the second in its chain
    assert held.rule.function is spec.yogi


def test_what_is_carried_over_predicts_alike(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    train = """
for _ in range(3):
    optimizer.zero_grad()
    (net(torch.ones(4, 5)) ** 2).sum().backward()
    optimizer.step()
"""
    exec(CARRY.replace("...  # train", train), namespace)
    X = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    there = namespace["net"](torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(namespace["model"](X), there, rtol=1e-5)
    assert int(namespace["optimizer"].iterations) == 3


def test_what_keras_has_begun_goes_on_in_torch_as_the_guide_has_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(LIKE, namespace)
    train = "model.fit(torch.ones(4, 5).numpy(), torch.ones(4, 1).numpy(), epochs=3, verbose=0)"
    exec(BEGUN.replace("...  # train", train), namespace)
    exec(INITIAL, namespace)
    X = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    there = namespace["net"](torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(namespace["model"](X), there, rtol=1e-5)
    assert [int(state["step"]) for state in namespace["optimizer"].state.values()] == [3, 3]
    assert namespace["Yogi"].rule.initial == {"v": 1e-6, "s": 1e-6}


def test_one_s_own_optimizers_are_held_together():
    code = """
def lion_torch(params, states, hyperparams):
    with torch.no_grad():
        for p, v in zip(params, states):
            p -= hyperparams["lr"] * torch.sign(0.9 * v + 0.1 * p.grad)
            v[:] = 0.99 * v + 0.01 * p.grad
            p.grad.zero_()


def lion_tensorflow(params, grads, states, hyperparams):
    for p, g, v in zip(params, grads, states):
        p.assign_sub(hyperparams["lr"] * tf.sign(0.9 * v + 0.1 * g))
        v.assign(0.99 * v + 0.01 * g)
"""
    import tensorflow as tf

    namespace = {"torch": torch, "tf": tf}
    exec(code, namespace)
    linecache.cache["<readme>"] = (
        0,
        None,
        TESTING.splitlines(keepends=True),
        "<readme>",
    )  # a rule is read, not only run
    exec(compile(TESTING, "<readme>", "exec"), namespace)
    namespace["test_lion_in_pytorch"]()
    namespace["test_lion_is_the_same_everywhere"]()
    exec(code.replace("0.99 * v", "0.9 * v"), namespace)
    with pytest.raises(AssertionError, match="pytorch  differs from lion_rule of the spec from step"):
        namespace["test_lion_in_pytorch"]()


def test_a_rule_is_one_function_and_an_optimizer_of_every_framework(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    linecache.cache["<rule>"] = 0, None, RULE.splitlines(keepends=True), "<rule>"  # a rule is read, not only run
    exec(compile(RULE, "<rule>", "exec"), namespace)
    assert len(RULE.partition("def lion")[2].strip().splitlines()) + 1 <= 8
    exec(STEP, namespace)
    curves = np.array(namespace["curves"])
    assert np.abs(curves - curves[-1]).max() <= 1e-6
    namespace["params"][0].grad = torch.ones(5, 1)
    namespace["params"][1].grad = torch.ones(1)
    namespace["step"](namespace["params"], namespace["states"], {"lr": 0.25})
    assert namespace["params"][0].tolist() == [[0.75]] * 5
    exec(IN_TORCH, namespace)
    optimizer, net = namespace["optimizer"], namespace["net"]
    exec(IN_KERAS, namespace)
    exec(IN_GLUON, namespace)
    for each in (optimizer, namespace["model"].optimizer, namespace["trainer"].optimizer):
        assert each.rule.name == "lion"
    assert render("tensorflow", namespace["lion"]) == LION_RENDERED
    namespace |= {"np": np, "net": net}
    exec(GOES_ON, namespace)
    assert namespace["hyperparams"] == {"lr": 1e-3, "t": 2, "beta1": 0.9, "beta2": 0.99}
    np.testing.assert_array_equal(namespace["params"][0], net.weight.detach().numpy())


def test_a_framework_is_one_file(monkeypatch):
    """The file for CuPy, with NumPy in CuPy's place."""
    monkeypatch.setitem(sys.modules, "cupy", np)
    module = types.ModuleType("d2l_adam.cupy")
    monkeypatch.setitem(sys.modules, "d2l_adam.cupy", module)
    exec(FRAMEWORK, vars(module))
    states, p, hyperparams = module.init_adam_states(2, "float64"), [np.zeros((2, 1)), np.zeros(1)], {"lr": 0.5, "t": 1}
    module.yogi(p, [np.full((2, 1), 1e-3), np.zeros(1)], states, hyperparams)
    np.testing.assert_allclose(p[0], [[-0.25], [-0.25]])
    assert hyperparams["t"] == 2
    with pytest.raises(ValueError, match="cupy: 2 parameters, 1 gradients"):
        module.adam(p, p[:1], states, hyperparams)


def test_a_framework_in_tabs_is_run_and_named(tmp_path):
    """The file for CuPy in a copy of the package, `numpy` under CuPy's name, and the tab in TABS."""
    package = shutil.copytree(ROOT / "d2l_adam", tmp_path / "d2l_adam")
    shutil.copy(data.path(), package)
    init = (package / "__init__.py").read_text()
    (package / "__init__.py").write_text(init.replace("TABS = (", 'TABS = ("cupy", '))
    rest = "from d2l_adam.numpy import NumPy\nCuPy.asnumpy, CuPy.regression = NumPy.asnumpy, NumPy.regression\n"
    (package / "cupy.py").write_text(f"{FRAMEWORK}\n{rest}")
    (tmp_path / "cupy.py").write_text("import sys, numpy\nsys.modules[__name__] = numpy\n")

    def command(*arguments):
        code = "import sys; sys.modules |= dict.fromkeys(('mxnet', 'torch', 'tensorflow')); import d2l_adam.__main__\n"
        code += f"sys.argv[1:] = {arguments}; d2l_adam.__main__.main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    result = command("run", "--tab", "cupy", "--json")
    assert [(curve["tab"], curve["rule"]) for curve in result["curves"] if curve["tab"] != "numpy"] == [
        ("cupy", "adam"),
        ("cupy", "yogi"),
    ]
    assert result["holds"]
    assert ">cupy<" in re.sub(r"<!-- (.*?) -->", r">\1<", (tmp_path / "build" / "curves.svg").read_text())
    row = {"version": np.__version__, "d2l": None, "step": "eager"}
    row["note"] = "cupy: this step cannot be fused: cupy lends no memory; leave that choice at None"
    assert command("info", "--json")["frameworks"]["cupy"] == row


def test_the_table_s_numbers_are_the_numbers():
    rows = re.findall(r"│ (\w+) +│ (\w+) │ +([\d.]+) │ +(\S+) │", README)
    assert len(rows) == len(d2l_adam.TABS) * len(spec.SECTION)
    for tab, rule, loss, distance in rows:
        reference = np.array(oracle.curve(rule))
        losses = np.array(d2l_adam.train(tab=tab, rule=rule, dtype="float64" if tab == "numpy" else "float32").losses)
        assert f"{losses[-1]:.6f}" == loss
        if tab != "numpy":
            # Summation order differs between processors; the size of the distance, a few roundings, does not.
            assert 1 / 3 < np.abs(losses - reference).max() / float(distance) < 3


def test_the_table_of_several_processes_has_every_engine():
    rows = re.findall(r"│ (\w+) +│ (\w+) +│ (\w+) │ +(\S+) │ +[\d.]+ │", GUIDE["processes"])
    assert [row[:3] for row in rows] == [
        (tab, engine, rule) for tab, engines in ENGINES.items() for engine in engines for rule in spec.SECTION
    ]
    assert all(float(row[3]) <= 1e-7 for row in rows)


def test_what_the_readme_points_to_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in (README, *GUIDE.values()):
        assert {*re.findall(r"(?:`|^    )make (\w+)", text, re.MULTILINE)} <= targets
        for file in re.findall(r"`(chapter_optimization/[\w.]+)`", text):
            assert (ROOT / file).is_file(), file


def test_the_versions_named_are_those_installed_by_make():
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for package in ("numpy", "torch", "tensorflow", "keras", "mxnet", "d2l"):
        assert pins[package] in GUIDE["install"], package
