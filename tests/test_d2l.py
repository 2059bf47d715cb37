"""The tabs inside the book's own `d2l`, as the chapter calls them."""

import importlib
import os
import random
import sys

import numpy as np
import pytest
import requests
from matplotlib import pyplot
from test_imports import failing, python

from d2l_adam import data, protocol
from d2l_adam.mxnet import mxnet
from d2l_adam.tensorflow import tf
from d2l_adam.torch import torch

THREE = ("mxnet", "pytorch", "tensorflow")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No network, and a folder without ../data: the table must come from the checked file."""
    for seed in (random.seed, np.random.seed, torch.manual_seed, tf.random.set_seed, mxnet.random.seed):
        seed(0)

    def refuse(*args, **kwargs):
        raise AssertionError("d2l tried to download")

    monkeypatch.setattr(requests, "get", refuse)
    (tmp_path / "chapter").mkdir()
    monkeypatch.chdir(tmp_path / "chapter")
    yield
    assert os.listdir(tmp_path) == ["chapter"]
    pyplot.close("all")


@pytest.mark.parametrize("tab", THREE)
@pytest.mark.parametrize("rule", ["adam", "yogi"])
def test_train_ch11_reaches_the_book_s_loss(tab, rule, capsys):
    module = protocol.load(tab)
    data_iter, feature_dim = module.d2l.get_data_ch11(batch_size=10)
    hyperparams = {"lr": 0.01, "t": 1}
    states = module.init_adam_states(feature_dim)
    _, losses = module.d2l.train_ch11(getattr(module, rule), states, hyperparams, data_iter, feature_dim)
    assert losses[-1] == pytest.approx(0.243, abs=0.006)
    assert hyperparams == {"lr": 0.01, "t": 301}
    assert "loss: 0.24" in capsys.readouterr().out


TRAINERS = {  # what is given to train_concise_ch11
    "the framework's own Adam": {"mxnet": "adam", "pytorch": torch.optim.Adam, "tensorflow": tf.keras.optimizers.Adam},
    "Adam": {
        "mxnet": "d2l_adam",
        "pytorch": protocol.load("pytorch").Adam,
        "tensorflow": protocol.load("tensorflow").Adam,
    },
    "Yogi": {"mxnet": "yogi", "pytorch": protocol.load("pytorch").Yogi, "tensorflow": protocol.load("tensorflow").Yogi},
}


@pytest.mark.parametrize("tab", THREE)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_train_concise_ch11(tab, trainer, capsys):
    module = protocol.load(tab)
    data_iter, _ = module.d2l.get_data_ch11(batch_size=10)
    lr = "lr" if tab == "pytorch" else "learning_rate"
    module.d2l.train_concise_ch11(TRAINERS[trainer][tab], {lr: 0.01}, data_iter, num_epochs=1)
    loss = float(capsys.readouterr().out.rpartition("loss: ")[2].partition(",")[0])
    assert loss == pytest.approx(0.243, abs=0.006)


@pytest.mark.parametrize("tab", THREE)
def test_d2l_itself_is_given_out_and_reads_the_checked_file(tab):
    d2l = protocol.load(tab).d2l
    assert d2l is importlib.import_module(f"d2l.{protocol.MODULE[tab]}")
    assert d2l.download("airfoil") == str(data.path())
    with pytest.raises(AssertionError, match="d2l tried to download"):
        d2l.download("http://localhost/other.csv", folder="elsewhere")
    os.rmdir("elsewhere")


def test_damaged_data_stop_d2l_too(tmp_path, monkeypatch):
    (tmp_path / data.NAME).write_text("1\t2\n")
    monkeypatch.setattr(data, "FOLDERS", (tmp_path,))
    with pytest.raises(ValueError, match="is damaged"):
        protocol.load("pytorch").d2l.get_data_ch11()
    (tmp_path / data.NAME).unlink()


def test_the_reference_has_no_d2l_whether_d2l_is_here_or_not(monkeypatch):
    for _ in range(2):
        with pytest.raises(AttributeError, match=r"numpy: there is no d2l\.numpy; d2l 1\.0\.3 has d2l\.mxnet"):
            protocol.load("numpy").d2l  # noqa: B018
        monkeypatch.setitem(sys.modules, "d2l", None)


def test_d2l_is_wrapped_once():
    tab = protocol.load("pytorch")
    first = tab.d2l.download
    assert tab.d2l.download is first


@pytest.fixture
def packages(tmp_path_factory):
    return tmp_path_factory.mktemp("packages")


USE = "from d2l_adam import torch as tab\nprint(tab.d2l.train_ch11.__name__)\n"


def test_torchvision_may_be_absent():
    code = (
        "import sys; sys.modules['torchvision'] = None; sys.modules['torchvision.transforms'] = None\n"
        + USE
        + "print([sys.modules[name] for name in sys.modules if name.startswith('torchvision')])\n"
        + "tab.d2l.torchvision.datasets.FashionMNIST"
    )
    said = failing(code)
    assert "ImportError: torchvision.datasets: there is no working torchvision here" in said
    assert "pip install the torchvision that belongs to your torch" in said
    assert "train_ch11\n[None, None]\n" in python(code.rpartition("\n")[0])


def test_torchvision_may_be_broken(packages):
    (packages / "torchvision").mkdir()
    (packages / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    said = failing(USE + "tab.d2l.transforms.ToTensor()", packages)
    assert "torchvision.transforms.ToTensor: there is no working torchvision here (operator nms does not exist)" in said


def test_a_working_torchvision_is_used(packages):
    (packages / "torchvision").mkdir()
    (packages / "torchvision" / "__init__.py").write_text("from torchvision import transforms")
    (packages / "torchvision" / "transforms.py").write_text("ToTensor = 'the real one'")
    said = python(USE + "print(tab.d2l.transforms.ToTensor, tab.d2l.torchvision)", packages)
    assert "the real one <module 'torchvision' from" in said


def test_a_missing_d2l_is_named_with_its_pip_line():
    said = failing("import sys; sys.modules['d2l'] = None\nfrom d2l_adam import torch as tab; tab.adam; tab.d2l")
    assert "ImportError: pytorch: d2l.torch cannot be imported" in said
    assert "pip install --no-deps d2l==1.0.3 && pip install ipython matplotlib" in said
