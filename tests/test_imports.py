"""What importing loads, and what it leaves behind; each check in an interpreter of its own."""

import json
import os
import subprocess
import sys

import pytest
from frameworks import TABS

from d2l_adam import protocol

FRAMEWORKS = ("mxnet", "torch", "tensorflow")


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


def loaded(statement):
    """The top-level packages that `statement` brings in."""
    code = f"import json, sys\n{statement}\nprint('loaded', json.dumps(sorted(n for n in sys.modules if '.' not in n)))"
    return set(json.loads(python(code).rpartition("loaded ")[2]))


def test_the_package_loads_no_framework_and_no_numpy():
    assert not loaded("import d2l_adam; d2l_adam.TABS") & {*FRAMEWORKS, "numpy", "matplotlib", "d2l", "click"}


def test_the_package_alone_loads_no_other_module():
    code = "import sys; before = {*sys.modules}; import d2l_adam; print(*sorted({*sys.modules} - before))"
    assert python(code) == "d2l_adam\n"


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_loads_its_own_framework_only(tab):
    own = protocol.MODULE[tab]
    packages = loaded(f"from d2l_adam import {own} as tab; tab.init_adam_states(5); tab.adam; tab.yogi")
    assert own in packages
    assert not packages & ({*FRAMEWORKS, "d2l"} - {own})


def test_the_command_line_loads_no_framework_until_it_runs():
    assert not loaded("import d2l_adam.__main__") & {*FRAMEWORKS, "matplotlib", "d2l"}


@pytest.mark.parametrize(
    ("name", "pip"),
    [
        ("mxnet", "pip install --no-deps mxnet==1.9.1 && pip install 'graphviz<0.9' requests setuptools"),
        ("torch", "pip install torch"),
        ("tensorflow", "pip install tensorflow"),
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


def test_mxnet_can_be_imported_after_it_failed_alone():
    """On NumPy 2 a bare `import mxnet` fails half way; the tab starts afresh."""
    code = """
try:
    import mxnet
except AttributeError:
    pass
from d2l_adam import mxnet as tab
import mxnet
mxnet.np.zeros(3)
try:
    mxnet.np.npv(0.1, [1, 2])
except AttributeError as error:
    print("npv", error)
"""
    assert "npv" in python(code)


def test_only_mxnet_is_lent_the_old_names():
    code = """
import numpy
from d2l_adam import imports
with imports.numpy_for_mxnet():
    assert not hasattr(numpy, "PZERO")
print("fine")
"""
    assert python(code) == "fine\n"
