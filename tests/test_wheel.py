"""The wheel, as built by `python -m build`, installed and used outside the clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import d2l_adam

ROOT = Path(__file__).parents[1]


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=True, **options
    ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--no-isolation", "--outdir", folder, ROOT)  # a source archive, and from that the wheel
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_has_the_package_the_data_and_the_licences_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "d2l_adam/airfoil_self_noise.dat" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"d2l_adam"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/data/LICENSE") for name in names)


def test_each_extra_asks_for_its_own_framework_only(wheel):
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist")]
    for framework in ("torch", "tensorflow", "mxnet", "jax"):
        of_it = [need for need in needs if need.startswith(framework) and "extra == 'tests'" not in need]
        assert [f"extra == '{framework}'" in need for need in of_it] == [True]


def test_the_wheel_works_outside_the_clone(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    options = {"cwd": elsewhere, "env": {**os.environ, "PYTHONPATH": str(site)}}
    code = "import d2l_adam.data as data; print(data.path()); from d2l_adam import numpy; print(numpy.__file__)"
    assert [Path(line).parent for line in run("-c", code, **options).splitlines()] == [site / "d2l_adam"] * 2
    assert "reference" in run("-m", "d2l_adam", "run", "--tab", "numpy", **options)
    assert (elsewhere / "build" / "curves.svg").is_file()
    (script,) = (site / "bin").glob("d2l-adam*")
    assert run(script, "--version", **options).strip().endswith(d2l_adam.__version__)
