"""The airfoil table: the right bytes, or a clear error."""

import hashlib
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import oracle
import pytest

from d2l_adam import data


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "FOLDERS", (tmp_path / "one", tmp_path / "two"))
    return tmp_path / "one"


def test_the_file_is_the_one_that_d2l_accepts():
    raw = data.path().read_bytes()
    assert len(raw) == 59_984
    assert hashlib.sha1(raw).hexdigest() == "76e5be1548fd8222e5074cf0faae75edff8cf93f"
    assert raw.count(b"\r\n") == 1503


def test_the_table_is_standardised_over_all_rows_and_cut_to_1500():
    features, labels = data.airfoil()
    assert (features.shape, labels.shape, features.dtype) == ((1500, 5), (1500, 1), np.float64)
    expected = oracle.airfoil()
    np.testing.assert_allclose(features, expected[0], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(labels[:, 0], expected[1], rtol=1e-13, atol=1e-13)


def test_nobody_can_change_the_table_by_accident():
    features, _ = data.airfoil()
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 0


def test_a_damaged_file_is_never_read(folder):
    folder.mkdir()
    good = (data.Path(__file__).parents[1] / "data" / data.NAME).read_bytes()
    (folder / data.NAME).write_bytes(good.replace(b"\r\n", b"\n"))
    for call in (data.path, data.airfoil):
        with pytest.raises(ValueError, match=r"one.airfoil_self_noise.dat is damaged: its SHA-256 is .* git checkout"):
            call()
    (folder / data.NAME).write_bytes(good)
    assert data.path() == folder / data.NAME


def test_a_missing_file_says_where_to_put_it(folder):
    with pytest.raises(FileNotFoundError, match=f"airfoil_self_noise.dat is missing; put it into {folder} or "):
        data.path()


def test_outside_a_clone_the_file_belongs_into_the_package(tmp_path):
    """What lies in a folder `data` beside the installed packages is somebody else's."""
    package, beside = tmp_path / "d2l_adam", tmp_path / "data"
    package.mkdir()
    beside.mkdir()
    (beside / data.NAME).write_text("1\t2\n")
    spec = importlib.util.spec_from_file_location("installed", shutil.copy(data.__file__, package))
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    with pytest.raises(FileNotFoundError, match=f"put it into {package} \\(it is part of"):
        installed.path()
    shutil.copy(data.path(), package)
    assert installed.path() == package / data.NAME


def test_the_bytes_that_are_parsed_are_those_that_were_checked(folder, monkeypatch):
    """The file is read once: it may change after."""
    good = (Path(data.__file__).parents[1] / "data" / data.NAME).read_bytes()
    contents = iter([good, b"1\t2\n"])
    folder.mkdir()
    (folder / data.NAME).touch()
    monkeypatch.setattr(Path, "read_bytes", lambda _: next(contents))
    features, _ = data.airfoil()
    assert features.shape == (1500, 5)
    with pytest.raises(ValueError, match="is damaged"):
        data.airfoil()
