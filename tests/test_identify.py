"""What an optimizer is: the libraries' own are found in the table, changed ones named, others told apart."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from d2l_adam import dialects, protocol, spec
from d2l_adam.__main__ import cli
from d2l_adam.check.identify import identify, names
from d2l_adam.testing import assert_matches_spec

PEERS = Path(__file__).parents[1] / ".venv" / "peers"
LIBRARIES = {"torch": "pytorch", "keras": "tensorflow", "mxnet": "mxnet"}
OWN = [(LIBRARIES[name.partition(".")[0]], name) for name in dialects.TABLE if name.partition(".")[0] in LIBRARIES]
FROM_SCRATCH = """
import numpy as np

class {name}:
    def __init__(self, lr=0.01, beta1=0.9, beta2=0.999):
        self.lr, self.beta1, self.beta2, self.iter, self.m, self.v = lr, beta1, beta2, 0, {{}}, {{}}

    def update(self, params, grads):
        self.iter += 1
        lr = self.lr * np.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        for key, p in params.items():
            m, v = self.m.get(key, 0 * p), self.v.get(key, 0 * p)
            self.m[key] = m + (1 - self.beta1) * (grads[key] - m)
            self.v[key] = v + (1 - self.beta2) * (grads[key] ** 2 - v)
            {step}
"""
STEP = "params[key] -= lr * self.m[key] / (np.sqrt(self.v[key]) + 1e-7)"


def from_scratch(folder, step=STEP, name="Adam"):
    """A file with an optimizer as *Deep Learning from Scratch* has it."""
    file = folder / f"{name.lower()}.py"
    file.write_text(FROM_SCRATCH.format(step=step, name=name))
    return f"{file}:{name}"


@pytest.mark.parametrize(("tab", "name"), OWN)
def test_each_row_of_the_table_is_found_to_be_what_it_says(tab, name):
    found = identify(name)
    assert name in found.like, found.text()
    assert (found.causes, found.step, found.error) == ((), None, "")
    said = {key: x.default for key, x in dialects.TABLE[name].rule.constants.items() if key != "lr"}
    assert said.items() <= found.constants.items() or None in said.values()
    assert found.initial == dialects.TABLE[name].rule.initial
    assert found.version


@pytest.mark.skipif(not PEERS.exists(), reason="make setup-tests puts the other libraries here")
def test_other_libraries_are_found_too():
    code = """
import sys
sys.path.append({!r})
from d2l_adam import dialects
from d2l_adam.check.identify import identify
for name in dialects.TABLE:
    if name.partition(".")[0] in ("optax", "torch_optimizer", "pytorch_optimizer"):
        found = identify(name)
        assert name in found.like, found.text()
        print(found.text())
"""
    done = subprocess.run([sys.executable, "-c", code.format(str(PEERS))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "optax.yogi  yogi (beta1=0.9, beta2=0.999, eps=0.001, v starts at 1e-06, s starts at 1e-06)" in done.stdout


@pytest.mark.parametrize(
    ("step", "rule", "causes"),
    [
        (STEP, "adam_hat", ()),
        (
            STEP.replace("(np.sqrt(self.v[key]) + 1e-7)", "np.sqrt(self.v[key] + 1e-7)"),
            "adam_hat",
            ("eps inside the root",),
        ),
        (STEP.replace("1e-7", "3e-5"), "adam_hat", ("eps = 3e-05 instead of 1e-07",)),
    ],
)
def test_a_class_of_one_s_own_is_named_or_how_it_is_changed(step, rule, causes, tmp_path):
    found = identify(from_scratch(tmp_path, step))
    assert (found.rule, found.causes, found.step, found.error) == (rule, causes, None, ""), found.text()


def test_its_own_constants_and_start_are_found(tmp_path):
    name = from_scratch(tmp_path)
    found = identify(f"{name}(beta1=0.7)")
    assert (found.rule, found.constants["beta1"], found.like) == ("adam_hat", 0.7, ())
    assert found.text().startswith(f"{name}(beta1=0.7)  adam_hat (beta1=0.7, beta2=0.999, eps=1e-07")
    text = STEP.replace("self.v[key])", "self.v[key] + 1e-6 * self.beta2**self.iter)")  # as if v started at 1e-6
    found = identify(from_scratch(tmp_path, text, "Late"))
    assert found.step
    assert 0 < found.apart < 0.5


def test_what_is_none_of_these_has_a_nearest(tmp_path):
    name = from_scratch(tmp_path, "params[key] -= 0.03 * self.lr * np.sin(40 * grads[key])")
    found = identify(name)
    assert found.step == 1
    assert 0.1 < found.apart <= 1
    assert found.text().startswith(f"{name}  none of these; the nearest, ")
    assert f"is {found.apart:.2g} of the way apart, from step 1 on" in found.text()
    nearer = identify(from_scratch(tmp_path, f"{STEP}; params[key] *= 1 - 1e-5", "Shrinks"))
    assert nearer.rule == "adam_hat"
    assert nearer.apart < found.apart


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Adam", "unknown optimizer 'Adam'; near it: torch.optim.Adam"),
        ("d2l_adam.numpy.Adam", "there is no d2l_adam.numpy.Adam; near it: d2l_adam.numpy.adam"),
        ("no_such_library.Adam", "no_such_library cannot be imported (ModuleNotFoundError"),
        ("no_such_library.Adam", "; pip install no_such_library"),
        ("d2l_adam.numpi.Adam", "d2l_adam.numpi cannot be imported (ModuleNotFoundError"),
        ("numpy.add(x", "is no name with arguments, such as torch.optim.SGD(momentum=0.9)"),
        ("numpy.add(*x)", "is no name with arguments"),
        ("missing.py:Adam", "missing.py cannot be imported (FileNotFoundError"),
        ("broken.py:Adam", "broken.py cannot be imported (SyntaxError"),
        ("numpy.pi", "numpy.pi  could not be driven: ValueError: it is no optimizer of PyTorch, Keras, MXNet or optax"),
        ("numpy.ndarray", "numpy.ndarray  could not be driven: ValueError: it is no optimizer"),
    ],
)
def test_what_cannot_be_driven_is_said(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("def (")
    done = subprocess.run([sys.executable, "-m", "d2l_adam", "identify", name], capture_output=True, text=True)
    assert (done.returncode, words in done.stdout + done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_an_optimizer_that_fails_says_why_and_the_others_are_identified(tmp_path):
    fails = from_scratch(tmp_path, "raise RuntimeError('no\\n::error::')", "Fails")
    fine = from_scratch(tmp_path)
    done = CliRunner().invoke(cli, ["identify", fails, fine])
    first, second = done.stdout.splitlines()
    assert first == f"{fails}  could not be driven: RuntimeError: no ::error::"
    assert second.endswith("adam_hat (beta1=0.9, beta2=0.999, eps=1e-07, weight_decay=0); as keras.optimizers.Adam")
    assert done.exit_code == 2
    assert CliRunner().invoke(cli, ["identify", fine]).exit_code == 0
    strange = from_scratch(tmp_path, "params[key] -= np.sin(40 * grads[key])", "Strange")
    done = CliRunner().invoke(cli, ["identify", "--json", fine, strange])
    one, other = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (one["rule"], one["constants"]["eps"], one["initial"]) == ("adam_hat", 1e-7, {"v": 0, "s": 0})
    assert (other["step"], other["causes"]) == (1, [])


@pytest.mark.needs("pytorch")
def test_a_star_stands_for_the_optimizers_of_a_module():
    found = names("torch.optim.*")
    assert {"torch.optim.Adam", "torch.optim.SGD"} <= {*found}
    assert "torch.optim.Optimizer" not in found
    assert names("torch.optim.Adam") == ["torch.optim.Adam"]
    assert names("numpy.*") == []


# In a test suite of one's own


@pytest.mark.parametrize("tab", ["mxnet", "pytorch", "tensorflow"])
@pytest.mark.parametrize("name", ["torch.optim.Adam", "keras.optimizers.Adam", "optax.yogi", "paper.AMSGrad"])
def test_an_optimizer_like_another_passes_as_it(tab, name):
    assert_matches_spec(tab, protocol.load(tab).like(name), name)


@pytest.mark.needs("pytorch")
def test_the_guide_s_page_shows_what_is_printed_and_its_test_passes(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "chapter_optimization" / "guide" / "identify.md").read_text(encoding="utf-8")
    from d2l_adam import torch as tab

    namespace = {"MyAdam": tab.like("keras.optimizers.Adam")}
    exec(page.partition("```python\n")[2].partition("```")[0], namespace)
    namespace["test_adam_is_as_in_keras"]()
    monkeypatch.chdir(tmp_path)
    from_scratch(Path(), STEP.replace("(np.sqrt(self.v[key]) + 1e-7)", "np.sqrt(self.v[key] + 1e-7)"))
    Path("adam.py").rename("mine.py")
    done = CliRunner().invoke(
        cli, ["identify", "torch.optim.Adam", "torch.optim.SGD(momentum=0.9)", "mine.py:Adam", "torch.optim.NAdam"]
    )
    *shown, nadam, versions = done.stdout.splitlines()
    assert "\n".join(shown) in page
    assert versions.startswith("Versions: torch 2.")
    path, _, words = nadam.partition("  ")
    assert f"\n| `{path}` | {words} |\n" in page.replace("\\_", "_")


@pytest.mark.needs("pytorch")
def test_a_native_optimizer_is_held_to_the_spec():
    import torch

    from d2l_adam import torch as tab

    assert_matches_spec(tab, tab.Adam, "adam", hyperparams={"lr": 0.1, "eps": 1e-3})
    assert_matches_spec("pytorch", functools.partial(torch.optim.Adam, eps=1e-6), "adam")
    with pytest.raises(AssertionError, match=r"behaves as: eps = 1e-08 instead of 1e-06"):
        assert_matches_spec("pytorch", torch.optim.Adam, "adam")
    with pytest.raises(TypeError, match=r"numpy: it is an optimizer of pytorch; give that tab"):
        assert_matches_spec("numpy", torch.optim.Adam, "adam")
    with pytest.raises(ValueError, match=r"it takes \(params, lr, betas, .*\), and no beta1"):
        assert_matches_spec("pytorch", torch.optim.Adam, "adam", hyperparams={"lr": 0.1, "beta1": 0.5})


def test_a_class_from_scratch_is_held_to_the_spec():
    class Sgd:
        def __init__(self, lr):
            self.lr = lr

        def update(self, params, grads):
            for key, p in params.items():
                params[key] = p - self.lr * grads[key]

    assert_matches_spec("numpy", Sgd, spec.sgd)
    with pytest.raises(AssertionError, match="differs from adagrad of the spec"):
        assert_matches_spec("numpy", Sgd, "adagrad", hyperparams={"lr": 0.1})
