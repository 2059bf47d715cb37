"""What importing loads, and what it leaves behind; each check in an interpreter of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from frameworks import NATIVE, TABS

from d2l_adam import protocol

#: Other libraries; among them Triton, as PyTorch's GPU builds bring it, so that they need not be here.
PEERS = Path(__file__).parents[1] / ".venv" / "peers"
FRAMEWORKS = ("mxnet", "torch", "tensorflow", "jax")


def with_folder(folder):
    """The caller's environment, `folder` the first on its PYTHONPATH."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def _run(code, folder):
    env = with_folder(folder) if folder else None
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)


def python(code, folder=None):
    """Run `code` in a new interpreter, with the packages in `folder`; return what it printed: it must succeed."""
    done = _run(code, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def failing(code, folder=None):
    """Run `code` likewise; return its error output: it must fail."""
    done = _run(code, folder)
    assert done.returncode == 1, done.stdout
    return done.stderr


def loaded(statement, then=""):
    """The top-level packages that `statement` brings in, before what is done then."""
    packages = "print('loaded', json.dumps(sorted(n for n in sys.modules if '.' not in n)), 'end')"
    said = python(f"import json, sys\n{statement}\n{packages}\n{then}")
    return set(json.loads(said.rpartition("loaded ")[2].partition(" end")[0]))


def test_the_package_loads_no_framework_and_no_numpy():
    assert not loaded("import d2l_adam; d2l_adam.TABS") & {*FRAMEWORKS, "numpy", "matplotlib", "d2l", "click"}


def test_the_package_alone_loads_no_other_module():
    code = "import sys; before = {*sys.modules}; import d2l_adam; print(*sorted({*sys.modules} - before))"
    assert python(code) == "d2l_adam\n"


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_loads_its_own_framework_only_and_without_a_warning(tab):
    """As by a test suite that makes errors of them; what a framework warns of in its own use is its own."""
    own = protocol.MODULE[tab]
    use = f"from d2l_adam import {own} as tab; tab.init_adam_states(5); tab.adam; tab.yogi"
    use += "; assert 'torch._dynamo' not in sys.modules"  # PyTorch's compiler, which loads as long as PyTorch itself
    d2l = "" if tab == "numpy" else "tab.d2l"
    packages = loaded(f"import warnings; warnings.simplefilter('error'); {use}", then=d2l)
    assert own in packages
    by_itself = {"jax"} if own == "tensorflow" else set()  # Keras imports it, where it is there
    assert not packages & ({*FRAMEWORKS, "d2l"} - {own} - by_itself)


def test_the_command_line_loads_no_framework_until_it_runs():
    assert not loaded("import d2l_adam.__main__, d2l_adam.check") & {*FRAMEWORKS, "matplotlib", "d2l"}


@pytest.mark.parametrize(
    ("name", "pip"),
    [
        ("mxnet", "pip install --no-deps mxnet==1.9.1 && pip install 'graphviz<0.9' requests setuptools"),
        ("torch", "pip install torch"),
        ("tensorflow", "pip install tensorflow"),
        ("jax", "pip install jax"),
    ],
)
def test_a_missing_framework_is_named_with_its_pip_line(name, pip):
    said = failing(f"import sys; sys.modules[{name!r}] = None\nfrom d2l_adam import {name}")
    assert said.strip().endswith(f"ModuleNotFoundError: {name} is not installed; {pip}")
    assert python(f"import sys; sys.modules[{name!r}] = None\nfrom d2l_adam import numpy; print('fine')") == "fine\n"


def test_a_framework_that_lacks_a_system_library_names_the_debian_packages(tmp_path):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet" / "__init__.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    said = failing("from d2l_adam import mxnet", tmp_path)
    assert "ImportError: mxnet is installed but cannot be imported (libgomp.so.1: cannot open" in said
    assert "apt-get install libgomp1 libquadmath0" in said


# Whoever imports TensorFlow first may not have Triton any more, which would crash; else it stays whole.
ORDERS = {
    ("import torch", "import d2l_adam.tensorflow"): True,
    ("import tensorflow", "import torch"): False,
    ("import d2l_adam.tensorflow", "import torch"): False,
    ("import d2l_adam.jax", "import keras", "import d2l_adam.mxnet", "import d2l_adam.torch"): False,
    ("import torch", "import optax", "import d2l_adam.jax"): True,
}
USE = """
import sys, d2l_adam
curves = d2l_adam.compare(tabs={tabs}, rules=["adam"], num_epochs=1)
import torch
if sys.platform == "linux":
    try:
        import triton.language
    except ImportError:
        print("without Triton")
torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).step()
assert max(curve["max_distance"] for curve in curves) <= 1e-6
print(*(curve["tab"] for curve in curves))
print(torch.compile(torch.sum, backend="eager")(torch.ones(3)).item())  # the others need a C++ compiler
"""


@pytest.mark.needs("mxnet", "pytorch", "tensorflow", "jax")
@pytest.mark.parametrize("order", ORDERS, ids="; ".join)
def test_frameworks_and_tabs_may_be_imported_in_any_order(order):
    assert PEERS.is_dir(), "the other libraries are not installed; run: make setup-tests"
    code = "\n".join(order)
    tabs = [tab for tab in TABS if protocol.MODULE[tab] in f"{code} torch tensorflow"]
    printed = python(code + USE.replace("{tabs}", str(tabs)), PEERS).splitlines()
    whole = ORDERS[order] or sys.platform != "linux"
    assert printed == ["without Triton"] * (not whole) + [" ".join(["numpy", *tabs]), "3.0"]


@pytest.mark.needs("mxnet", "pytorch", "tensorflow")
@pytest.mark.parametrize("tab", ["mxnet", "tensorflow"])
def test_nothing_is_lost_where_a_framework_is_missing(tab):
    """Hidden as on a platform without its wheel: what compares frameworks goes on with the others."""
    code = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name == {protocol.MODULE[tab]!r} else find(name, *more)
import d2l_adam
from d2l_adam import protocol, testing
curves = d2l_adam.compare(rules=["yogi"], num_epochs=1)
tabs = {{tab: protocol.load(tab) for tab in protocol.installed()}}
testing.assert_tabs_agree({{tab: module.yogi for tab, module in {{**tabs, "numpy": tabs["numpy"]}}.items()}})
print(*(curve["tab"] for curve in curves))
"""
    assert python(code).split() == ["numpy", *(other for other in NATIVE if other != tab)]


@pytest.mark.needs("mxnet")
def test_mxnet_leaves_numpy_as_it_was():
    code = """
import numpy
own, before = numpy.__getattr__, set(vars(numpy))
from d2l_adam import mxnet
assert numpy.__getattr__ is own
assert set(vars(numpy)) - before <= {"rec", "strings", "matlib", "f2py", "testing", "ctypeslib", "polynomial", "random",
    "fft", "ma", "char", "core", "dtypes", "exceptions", "lib", "linalg", "typing", "emath", "_pytesttester"}, \\
    set(vars(numpy)) - before
for name in ("PZERO", "npv", "round_", "product"):
    try:
        getattr(numpy, name)
    except AttributeError:
        continue
    raise AssertionError(name)
print("fine")
"""
    assert python(code).endswith("fine\n")


@pytest.mark.needs("mxnet")
def test_mxnet_is_whole_after_it_failed_alone():
    """On NumPy 2 a bare `import mxnet` fails half way, as it does in a notebook; the tab starts afresh."""
    attempt = "try:\n    import mxnet\nexcept AttributeError:\n    pass\n"
    names = """
import json, sys
from d2l_adam import mxnet as tab
import mxnet
mxnet.autograd, mxnet.np.zeros(3)
try:
    mxnet.np.npv(0.1, [1, 2])
except AttributeError as error:
    assert "npv" in str(error)
modules = [name for name in sys.modules if name.split(".")[0] == "mxnet"]
print(json.dumps({name: sorted(vars(sys.modules[name])) for name in sorted(modules)}))
"""
    after_failing, alone = json.loads(python(attempt + names)), json.loads(python(names))
    assert after_failing == alone
    assert len(alone) > 200


def test_only_mxnet_is_lent_the_old_names():
    code = """
import numpy
from d2l_adam import imports
with imports.numpy_for_mxnet():
    assert not hasattr(numpy, "PZERO")
print("fine")
"""
    assert python(code) == "fine\n"
