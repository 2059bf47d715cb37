"""One file for all tabs: carried on elsewhere with the same curve, whole or refused."""

import functools
import hashlib
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import oracle
import pytest
import safetensors.numpy
from frameworks import HALVES, RULES, TABS, Native, Problem
from hypothesis import given as examples
from hypothesis import strategies as st
from test_errors import snapshot
from test_optimizers import NATIVE
from test_render import HYPERPARAMS, amsgrad, lion

import d2l_adam
from d2l_adam import checkpoint, protocol, spec
from d2l_adam.rule import Rule

# ---- the curve goes on ----------------------------------------------------------------------------


@functools.cache
def whole(tab, rule, dtype):
    return d2l_adam.train(tab, rule, dtype=dtype).losses


@pytest.mark.parametrize(("first", "second"), [*itertools.product(TABS, TABS)])
@pytest.mark.parametrize(("rule", "dtype"), [("adam", "float32"), ("yogi", "float32"), ("yogi", "float64")])
def test_an_epoch_here_and_an_epoch_there_make_the_uninterrupted_curve(first, second, rule, dtype, tmp_path):
    start = d2l_adam.train(first, rule, dtype=dtype, num_epochs=1, save_to=tmp_path / "run")
    rest = d2l_adam.train(second, rule, dtype=dtype, num_epochs=2, load_from=tmp_path / "run")
    reference = np.array(oracle.curve(rule))
    assert len(start.losses) + len(rest.losses) == len(reference)
    assert start.epochs + rest.epochs == d2l_adam.train("numpy", rule).epochs
    assert np.abs(start.losses + rest.losses - reference).max() <= protocol.TOLERANCE[dtype]
    if first == second:  # then to the last bit
        assert start.losses + rest.losses == whole(first, rule, dtype)


GRADS = [np.random.default_rng(1).normal(size=(10, *shape)) for shape in ((3, 2), (2,))]
START = [np.ones((3, 2)), np.zeros(2)]


def of_native(native, names=None):
    """The first two arguments of `save` and `load`."""
    params = native.params if names is None else dict(zip(names, native.params, strict=True))
    return params, native.holder


def run(native, first, last):
    for i in range(first, last):
        native.step([g[i] for g in GRADS])


@pytest.mark.parametrize(("first", "second"), [*itertools.product(NATIVE, NATIVE)])
@pytest.mark.parametrize("rule", RULES)
def test_native_optimizers_carry_on_from_one_another(first, second, rule, tmp_path):
    native = Native(first, rule, START)
    run(native, 0, 5)
    native.module.save(tmp_path / "run", *of_native(native))
    other = Native(second, rule, [p + 7 for p in START])
    other.load(tmp_path / "run")
    run(other, 5, 10)
    for start, grads, values in zip(START, GRADS, other.values(), strict=True):
        np.testing.assert_allclose(values, oracle.trajectory(rule, start, grads, 0.01)[:, -1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tab", NATIVE)
@pytest.mark.parametrize("rule", RULES)
def test_functions_and_native_optimizers_carry_on_from_one_another(tab, rule, tmp_path):
    native, problem = Native(tab, rule, START), Problem(tab, START)
    run(native, 0, 4)
    native.module.save(tmp_path / "run", *of_native(native))
    problem.module.load(tmp_path / "run", problem.params, problem.states, problem.hyperparams, rule=rule)
    assert problem.hyperparams["t"] == 5
    problem.run(rule, [[g[i] for g in GRADS] for i in range(4, 7)])
    problem.module.save(tmp_path / "run", problem.params, problem.states, problem.hyperparams)
    other = Native(tab, rule, START)
    other.load(tmp_path / "run")
    run(other, 7, 10)
    for start, grads, values in zip(START, GRADS, other.values(), strict=True):
        np.testing.assert_allclose(values, oracle.trajectory(rule, start, grads, 0.01)[:, -1], rtol=1e-12, atol=1e-14)


def test_a_dense_layer_goes_from_keras_to_torch_and_gluon(tmp_path):
    keras = Native("tensorflow", "yogi", START)
    run(keras, 0, 5)
    keras.module.save(tmp_path / "run", *of_native(keras, ["weight", "bias"]))
    for tab in ("pytorch", "mxnet"):
        other = Native(tab, "yogi", [START[1], START[0].T])  # in another order too
        other.module.load(tmp_path / "run", *of_native(other, ["bias", "weight"]), axes={"weight": (1, 0)})
        for i in range(5, 10):
            other.step([GRADS[1][i], GRADS[0][i].T])
        expected = oracle.trajectory("yogi", START[0], GRADS[0], 0.01)[:, -1].swapaxes(1, 2)
        np.testing.assert_allclose(other.values()[1], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("tab", "half"), HALVES)
def test_half_precision_is_carried_exactly(tab, half, tmp_path):
    problem, other = Problem(tab, [[1.0, -2.0]], half, lr=0.1), Problem("numpy", [[0.0, 0.0]], half, lr=0.1)
    problem.run("yogi", [[[0.5, 0.25]]] * 3)
    problem.module.save(tmp_path / "run", problem.params, problem.states, problem.hyperparams)
    other.module.load(tmp_path / "run", other.params, other.states, other.hyperparams)
    np.testing.assert_array_equal(other.values(), problem.values())


def test_torch_s_parameters_keep_clocks_of_their_own(tmp_path):
    from d2l_adam import torch as tab

    native = Native("pytorch", "yogi", START)
    run(native, 0, 3)
    native.params[1].grad = None
    native.optimizer.step()
    tab.save(tmp_path / "run", *of_native(native))
    other = Native("pytorch", "yogi", START)
    tab.load(tmp_path / "run", *of_native(other))
    assert [int(other.optimizer.state[p]["step"]) for p in other.params] == [4, 3]
    gluon = Native("mxnet", "yogi", START)
    gluon.load(tmp_path / "run")
    assert gluon.optimizer._index_update_count == {0: 4, 1: 3}
    keras = Native("tensorflow", "yogi", START)
    with pytest.raises(ValueError, match=r"the parameters have made \[4, 3\] steps, here one number counts for all"):
        keras.load(tmp_path / "run")


def test_constants_that_are_in_the_file_go_on(tmp_path):
    problem = Problem("numpy", [[1.0]])
    problem.hyperparams |= {"beta1": 0.5, "eps": 0.25}
    problem.run("adam", [[[1.0]]] * 2)
    problem.module.save(tmp_path / "run", problem.params, problem.states, problem.hyperparams)
    hyperparams = {"lr": 0.3, "t": 1}
    problem.module.load(tmp_path / "run", problem.params, problem.states, hyperparams)
    assert hyperparams == {"lr": 0.3, "t": 3, "beta1": 0.5, "eps": 0.25}


def test_keras_carries_the_variables_of_a_model_and_its_accumulated_steps(tmp_path):
    import keras

    from d2l_adam import tensorflow as tab

    def model():
        net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        optimizer = tab.Yogi(0.1, gradient_accumulation_steps=3)
        optimizer.build(net.trainable_variables)
        return net.trainable_variables, optimizer

    def step(variables, optimizer, first, last):
        for i in range(first, last):
            optimizer.apply([tab.tf.fill(v.shape, float(i)) for v in variables], variables)

    (variables, optimizer), (others, other) = model(), model()
    step(variables, optimizer, 0, 6)
    tab.save(tmp_path / "run", variables, optimizer)
    tab.load(tmp_path / "run", others, other)
    step(variables, optimizer, 6, 12)
    step(others, other, 6, 12)
    assert (int(optimizer.iterations), int(other.iterations)) == (4, 4)
    for ours, theirs in zip(others, variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    step(others, other, 0, 1)
    unbuilt, averaged = tab.Yogi(), tab.Yogi(use_ema=True)
    averaged.build(others)
    for refusing, words in (
        (other, "1 of 3 gradients are accumulated; save and load after a step"),
        (unbuilt, r"the optimizer is not built; call optimizer\.build"),
        (averaged, "the file has no place for the averages of use_ema"),
    ):
        with pytest.raises(ValueError, match=f"tensorflow: {words}"):
            tab.load(tmp_path / "run", others, refusing)
    with pytest.raises(TypeError, match="that one's inner_optimizer"):
        tab.save(tmp_path / "run", others, keras.optimizers.LossScaleOptimizer(other))
    assert not unbuilt.built


def test_gluon_carries_every_device_and_the_clock_of_the_scheduler(tmp_path):
    from d2l_adam import mxnet as tab

    mx = tab.mxnet

    def trainer(**options):
        params = [mx.gluon.Parameter(f"weight{i}", shape=(2,)) for i in range(2)]
        for p in params:
            p.initialize("ones", ctx=[mx.cpu(0), mx.cpu(1)])
        scheduler = mx.lr_scheduler.FactorScheduler(step=2, factor=0.5, base_lr=0.1)
        options = {"lr_scheduler": scheduler, **options}
        return params, mx.gluon.Trainer(params, "yogi", options, update_on_kvstore=False)

    def step(params, trainer, steps):
        for _ in range(steps):
            with mx.autograd.record():
                losses = [(x * (i + 1)).sum() for i, p in enumerate(params) for x in p.list_data()]
            mx.autograd.backward(losses)
            trainer.step(1)

    (params, first), (others, second) = trainer(begin_num_update=1), trainer()
    step(params, first, 3)
    tab.save(tmp_path / "run", params, first)
    tab.load(tmp_path / "run", others, second)
    assert second.optimizer.num_update == 4
    for run in ((params, first), (others, second)):
        step(*run, 3)
    for p, other in zip(params, others, strict=True):
        for x, y in zip(p.list_data(), other.list_data(), strict=True):
            np.testing.assert_allclose(x.asnumpy(), y.asnumpy(), rtol=1e-6)
    assert params[0].data(mx.cpu(0))[0] != params[1].data(mx.cpu(0))[0]
    stranger = mx.gluon.Parameter("weight1", shape=(2,))
    stranger.initialize()
    still = [mx.gluon.Parameter("mean", shape=(2,), grad_req="null")]
    still[0].initialize()
    on_store = mx.gluon.Trainer(trainer()[0][:1], "yogi")
    precise = mx.gluon.Trainer([stranger], "yogi", {"multi_precision": True})
    for given, using, words in (
        ([params[0], stranger], first, "parameter 1 is none of the Trainer's"),
        (
            still,
            mx.gluon.Trainer(still, "yogi"),
            r"parameter 0, mean, is not trained \(its grad_req is 'null'\); leave it",
        ),
        (on_store._params, on_store, "make the Trainer with update_on_kvstore=False"),
        ([stranger], precise, "no place for the copies of multi_precision"),
    ):
        with pytest.raises(ValueError, match=f"mxnet: .*{words}"):
            tab.save(tmp_path / "run", given, using)


def test_torch_s_groups_share_their_constants(tmp_path):
    from d2l_adam import torch as tab

    a, b = (tab.torch.nn.Parameter(tab.torch.ones(2)) for _ in range(2))
    optimizer = tab.Yogi([{"params": [a]}, {"params": [b], "betas": (0.5, 0.5)}])
    with pytest.raises(ValueError, match="pytorch: the groups differ in betas or eps; save each in a file of its own"):
        tab.save(tmp_path / "run", [a, b], optimizer)
    tab.save(tmp_path / "run", [b], optimizer)


def test_native_arrays_are_checked_before_any_is_written(tmp_path):
    from d2l_adam import torch as tab

    torch = tab.torch
    a, b = (torch.nn.Parameter(torch.zeros(n)) for n in (2, 3))
    tab.save(tmp_path / "run", [a, b], tab.Yogi([a, b]))
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1).expand(3))
    with pytest.raises(ValueError, match="pytorch: parameter 1 cannot be written in place"):
        tab.load(tmp_path / "run", [a, b], tab.Yogi([a, b]))
    assert (a == 1).all()
    with pytest.raises(ValueError, match="is the same array as"):
        tab.save(tmp_path / "run", [a, a], tab.Yogi([a]))


# ---- the file -------------------------------------------------------------------------------------


def saved(path, **options):
    problem = Problem("numpy", START, **options)
    problem.run("yogi", [[g[0] for g in GRADS]])
    params = dict(zip(("weight", "bias"), problem.params, strict=True))
    problem.module.save(path, params, problem.states, problem.hyperparams, rule="yogi")
    return problem


def test_any_reader_of_safetensors_reads_it(tmp_path):
    problem = saved(tmp_path / "run.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "run.safetensors")
    for name, p, (v, s) in zip(("weight", "bias"), problem.params, problem.states, strict=True):
        for key, x in (("param", p), ("v", v), ("s", s)):
            np.testing.assert_array_equal(arrays.pop(f"{key}/{name}"), x)
    assert not arrays
    with safetensors.safe_open(tmp_path / "run.safetensors", "numpy") as file:
        about = json.loads(file.metadata()["d2l_adam"])
    assert (about["rule"], about["steps"], about["names"]) == ("yogi", [1, 1], ["weight", "bias"])


def test_it_is_the_same_to_the_last_bit_whoever_saves_and_a_later_one_replaces_it(tmp_path):
    saved(tmp_path / "a")
    (tmp_path / "b").write_text("something else")
    saved(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_who_may_read_it_remains(tmp_path):
    saved(tmp_path / "run")
    (tmp_path / "run").chmod(0o640)
    saved(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o640


def test_its_name_may_be_long(tmp_path):
    saved(tmp_path / ("n" * 250))
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives files away")
def test_whose_it_is_remains(tmp_path):
    saved(tmp_path / "run")
    os.chown(tmp_path / "run", 12345, 54321)
    (tmp_path / "run").chmod(0o604)
    saved(tmp_path / "run")
    found = (tmp_path / "run").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 54321, 0o604)


def test_the_content_is_on_the_disk_before_its_name_is_and_then_the_folder(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: calls.append(stat.S_IFMT(os.fstat(number).st_mode)) or fsync(number)
    )
    monkeypatch.setattr(Path, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    saved(tmp_path / "run")
    assert calls == [stat.S_IFREG, "replace", stat.S_IFDIR]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "link to a pipe"])
def test_what_is_no_file_is_not_replaced(kind, tmp_path):
    path = Path(os.devnull) if kind == "device" else tmp_path / "run"
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "loop": lambda x: os.symlink(x, x), "device": lambda x: None}
    if kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    else:
        make[kind](path)
    before, names = os.lstat(path), os.listdir(tmp_path)
    with pytest.raises(OSError, match=f"{path}"):
        saved(path)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mode, os.listdir(tmp_path)) == (before.st_ino, before.st_mode, names)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no locks of this kind")
def test_what_an_ended_save_has_left_is_cleared_but_not_what_another_writes(tmp_path, monkeypatch):
    saved(tmp_path / "run")
    left = []

    def fails(self, target):
        left.append(self)
        saved(tmp_path / "run")  # of another writer, meanwhile
        assert self.exists()
        monkeypatch.undo()
        os.link(self, f"{self}-left")  # as kill -9 would leave it
        raise OSError("ended")

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (replace if left else fails)(self, to))
    with pytest.raises(OSError, match="ended"):
        saved(tmp_path / "run")
    assert len(os.listdir(tmp_path)) == 2
    saved(tmp_path / "another")
    assert len(os.listdir(tmp_path)) == 3
    saved(tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == ["another", "run"]


def test_two_writers_and_a_reader_are_in_nobody_s_way(tmp_path):
    saved(tmp_path / "run")
    whole = (tmp_path / "run").read_bytes()

    def write(_):
        for _ in range(50):
            saved(tmp_path / "run")
            assert (tmp_path / "run").read_bytes() == whole

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert os.listdir(tmp_path) == ["run"]


def test_arrays_need_not_be_contiguous(tmp_path):
    problem = Problem("numpy", [np.zeros((2, 3))])
    problem.params = [np.arange(6.0).reshape(3, 2).T]
    problem.module.save(tmp_path / "run", problem.params, problem.states, problem.hyperparams)
    other = Problem("numpy", [np.zeros((2, 3))])
    other.module.load(tmp_path / "run", other.params, other.states, other.hyperparams)
    np.testing.assert_array_equal(other.params[0], problem.params[0])


def test_a_link_remains_a_link(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "there")
    saved(tmp_path / "run")
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "there").is_file()


def test_names_may_be_anything(tmp_path):
    names = ["0" * 64, '"sha256": "', "重み/v", ""]
    problem = Problem("numpy", [[1.0]] * 4)
    problem.run("yogi", [[[1.0]] * 4])
    params = dict(zip(names, problem.params, strict=True))
    problem.module.save(tmp_path / "run", params, problem.states, problem.hyperparams)
    other = Problem("numpy", [[0.0]] * 4)
    params = dict(zip(names, other.params, strict=True))
    other.module.load(tmp_path / "run", params, other.states, other.hyperparams)
    assert other.values() == problem.values()


def refused(
    path, words, error=ValueError, tab="pytorch", params=START, rule="yogi", dtype="float64", axes=None, **change
):
    problem = Problem(tab, params, dtype)
    problem.hyperparams |= change
    before = snapshot(problem)
    names = ("weight", "bias", "third")[: len(params)]
    with pytest.raises(error, match=words):
        problem.module.load(
            path,
            dict(zip(names, problem.params, strict=True)),
            problem.states,
            problem.hyperparams,
            rule=rule,
            axes=axes,
        )
    assert snapshot(problem) == before


@pytest.mark.parametrize("tab", TABS)
def test_what_does_not_fit_is_refused_and_nothing_changes(tab, tmp_path):
    saved(tmp_path / "run")
    for options, words in (
        (
            {"params": START[:1]},
            r"holds the parameters \['weight', 'bias'\], here are \['weight'\]; load into the same",
        ),
        ({"params": [*START, START[0]]}, "here are .*'third'"),
        (
            {"params": [START[0].T, START[1]]},
            r"weight is of shape \(3, 2\) in float64, here of shape \(2, 3\) in float64",
        ),
        ({"axes": {"weight": (1, 0)}}, r"weight is of shape \(2, 3\) in float64, here of shape \(3, 2\)"),
        ({"axes": {"wieght": (1, 0)}}, r"axes are given for \['wieght'\]; known: \['weight', 'bias'\]"),
        ({"axes": {0: (1, 0)}}, r"axes are given for \[0\]"),
        ({"axes": {"weight": ("a", 0)}}, "axes .* do not fit weight"),
        ({"axes": {"bias": (1, 0)}}, r"axes \(1, 0\) do not fit bias, of shape \(2,\) there"),
        ({"dtype": "float32"}, "here of .* in float32; make them alike"),
        ({"rule": "adam"}, "is of yogi, here is adam; continue with yogi"),
        ({"beta2": 0.5}, "was made with beta2 0.999, here it is 0.5; continue with 0.999"),
    ):
        refused(tmp_path / "run", words, tab=tab, **options)


def test_a_file_that_is_no_such_file_is_refused(tmp_path):
    refused(tmp_path / "missing", "No such file", FileNotFoundError)
    for content in (b"", b"x" * 100, b"\xff" * 8, safetensors.numpy.save({"a": np.ones(2)})):
        (tmp_path / "run").write_bytes(content)
        refused(tmp_path / "run", "is not a file that `save` of a tab wrote, or it is truncated")


def test_a_later_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 4)
    saved(tmp_path / "run")
    monkeypatch.undo()
    refused(tmp_path / "run", "is of version 4, this d2l_adam reads 1 to 3; upgrade d2l_adam")


def test_a_file_of_version_1_goes_on():
    file = Path(__file__).with_name("version1.safetensors")  # made by d2l_adam when that was the last
    problem = Problem("numpy", [[0.0], [[0.0, 0.0]]])
    problem.module.load(
        file,
        dict(zip(("bias", "weight"), problem.params, strict=True)),
        problem.states,
        hyperparams := {"lr": 0.1, "t": 1, "beta1": 0.5},
        rule="yogi",
    )
    assert problem.params[0] == 0.5
    assert np.array_equal(problem.params[1], [[1.0, 2.0]])
    assert np.array_equal(problem.states[1], [[[0.25, -0.5]], [[0.125, 4.0]]])
    assert np.array_equal(problem.states[0], [[3.0], [8.0]])
    assert hyperparams == {"lr": 0.1, "t": 7, "beta1": 0.5, "beta2": 0.999, "eps": 0.001}
    with pytest.raises(ValueError, match=r"holds the state \['v', 's'\], here is \['v'\]; continue with the same rule"):
        problem.module.load(file, problem.params[::-1], [np.zeros((1, 2)), np.zeros(1)], {"t": 1})


def test_a_file_of_version_2_goes_on(tmp_path):
    saved(tmp_path / "run")
    about, arrays = content_of(tmp_path / "run")
    assert about.pop("dialect", "") is None
    (tmp_path / "run").write_bytes(forged(about | {"version": 2}, arrays))
    problem = Problem("numpy", START)
    params = dict(zip(about["names"], problem.params, strict=True))
    problem.module.load(tmp_path / "run", params, problem.states, problem.hyperparams)
    assert problem.hyperparams["t"] == about["steps"][0] + 1


def test_a_truncated_or_altered_file_is_refused_wherever_it_is(tmp_path):
    saved(tmp_path / "run")
    content = (tmp_path / "run").read_bytes()
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(content), 40):
        (tmp_path / "run").write_bytes(content[:length])
        refused(tmp_path / "run", "truncated|damaged", tab="numpy")
    for place in [*range(16), *rng.integers(16, len(content), 200)]:
        altered = bytearray(content)
        altered[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "run").write_bytes(altered)
        refused(tmp_path / "run", "truncated|damaged|version", tab="numpy")
    (tmp_path / "run").write_bytes(content + b"\0")
    refused(tmp_path / "run", "damaged")


def of_rule(tab, rule, fill):
    """Parameters, states in the book's shape, and hyperparameters for a rule; the arrays hold different numbers."""
    module, rule, rng = protocol.load(tab), Rule(rule), np.random.default_rng(0)
    problem = Problem(tab, [fill * rng.normal(size=shape) for shape in ((2, 3), (2,), ())])
    arrays = [[problem.state(tuple(p.shape), "float64") for _ in rule.state] for p in problem.params]
    for state in arrays:
        module.TAB.fill(state, [fill * rng.normal(size=x.shape) for x in state])
    hyperparams = {name: x for name, x in HYPERPARAMS.items() if name in rule.constants}
    hyperparams |= {"t": 8 if fill else 1} if rule.reads_t else {}
    return problem.params, [rule.book_shape(tuple(state)) for state in arrays], hyperparams


def numbers_of(tab, params, states):
    module = protocol.load(tab)
    return [[module.TAB.asnumpy(x).tolist() for x in (p, *Rule.states(s))] for p, s in zip(params, states, strict=True)]


def with_param(p, g, param, t, lr):
    """A rule whose state is called as the file calls the parameters."""
    param = param + g
    return p - lr * param, param


@pytest.mark.parametrize("rule", [*spec.RULES.values(), lion, amsgrad, with_param])
@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise([*TABS, TABS[0]])))
def test_every_rule_s_state_is_carried(first, second, rule, tmp_path):
    before, after = of_rule(first, rule, 1.0), of_rule(second, rule, 0.0)
    for known in (rule, None):
        if known is None and "t" not in before[2]:
            for arguments in (before, after):
                arguments[2]["t"] = 8  # of a rule that is not known, it must be given
        protocol.load(first).save(tmp_path / "run", *before, rule=known)
        protocol.load(second).load(tmp_path / "run", *after, rule=known)
        assert numbers_of(second, *after[:2]) == numbers_of(first, *before[:2])
        assert after[2] | before[2] == after[2]
        unknown = [[], ["v"], ["v", "s"], *([f"state{i}" for i in range(n)] for n in (3, 4))][len(Rule(rule).state)]
        names = unknown if known is None or rule is with_param else list(Rule(rule).state)
        assert content_of(tmp_path / "run")[0]["state"] == names


def test_the_book_s_states_of_sgd_are_none(tmp_path):
    module, params, others = protocol.load("numpy"), [np.ones(2)], [np.zeros(2)]
    module.save(tmp_path / "run", params, None, {"lr": 0.1}, rule="sgd")
    module.load(tmp_path / "run", others, None, hyperparams := {"lr": 0.5}, rule=spec.sgd)
    assert others[0].tolist() == [1.0, 1.0]
    assert hyperparams == {"lr": 0.5}
    refusals = (
        ("adam", [(np.ones(2), np.ones(2))], "is of sgd, here is adam; continue with sgd"),
        (None, [np.ones(2)], r"holds the state \[\], here is \['v'\]"),
    )
    for rule, states, words in refusals:
        with pytest.raises(ValueError, match=words):
            module.load(tmp_path / "run", others, states, {"t": 1}, rule=rule)


# ---- damage under a right checksum ----------------------------------------------------------------


def forged(about, arrays, **metadata):
    """A file of any content, with a right checksum."""
    if isinstance(about, dict) and "sha256" in about:
        about = {"sha256": "0" * 64} | about | {"sha256": "0" * 64}
    text = about if isinstance(about, str) else json.dumps(about)
    return signed(safetensors.numpy.save(arrays, {"d2l_adam": text, **metadata}))


def signed(content):
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


def content_of(path):
    with safetensors.safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["d2l_adam"])
    return about, safetensors.numpy.load_file(path)


def put(**entries):
    return lambda about, arrays: about.update(entries)


def put_array(name, value):
    return lambda about, arrays: arrays.update({name: value})


def without(entry):
    return lambda about, arrays: about.pop(entry)


def cast(dtype, declared=None):
    """All arrays in another dtype, which is declared or not."""

    def change(about, arrays):
        arrays.update({name: x.astype(dtype) for name, x in arrays.items()})
        about["dtypes"] = [declared or about["dtypes"][0]] * 2

    return change


DEEP = "[" * 50_000 + "]" * 50_000
SHAPE = np.zeros((3, 2))
#: name: (what is done to the header and the arrays, words of the error)
DAMAGES = {
    **{
        f"steps {value}": (put(steps=value), "steps is")
        for value in (
            ["x", 1], [float("nan"), 1], [-5, 1], [1.5, 1], [2**53, 1], [10**400, 1], [True, 1], [None, 1], [[1], 1],
            [1], [1, 1, 1], [], None, 5, "11", {"0": 1},
        )
    },
    **{
        f"constants {value}": (put(constants=value), "constants is")
        for value in (
            {"lr": 0.1}, {"t": 3}, {"beta1": "x"}, {"beta1": float("nan")}, {"eps": float("inf")}, {"beta1": 1.5},
            {"beta1": None}, {"beta1": True}, {"beta1": [0.9]}, {"beta1": 10**400}, {"a b": 1.0}, {"": 1.0}, [], None,
        )
    },
    "a constant that no yogi has": (put(constants={"momentum": 0.5}), "yogi has no momentum; it has lr, beta1"),
    **{
        f"names {value}": (put(names=value), "names is|by its|damaged: (param|v|s)/|dtypes is|holds")
        for value in (
            ["weight", "weight"], ["weight", 5], ["weight", None], [["weight"], "bias"], "ab", None, {"weight": 0},
            ["weight"], ["weight", "bias", "third"], ["weight", "\ud800"], [],
        )
    },
    **{
        f"dtypes {value}": (put(dtypes=value), "dtypes is|damaged: param/weight is float64 of shape")
        for value in (
            ["float64", "int32"], ["float64", 5], ["float64"], ["float64"] * 3, ["float64", ["float64"]], None,
            "float64", ["float32", "float64"], ["bfloat16", "float64"], ["float16", "float64"], ["x", "y"],
        )
    },
    **{
        f"state {value}": (put(state=value), "state is|damaged: .*/weight is|it holds")
        for value in (["v", "v"], ["v", "param"], ["v", 5], ["v"], ["v", "s", "x"], ["v", "x"], None, "vs", [], [["v"]])
    },
    **{f"rule {value}": (put(rule=value), "rule is") for value in (5, ["yogi"], {}, True)},
    "another rule": (put(rule="adam"), "is of adam, here is yogi; continue with adam"),
    **{
        f"no {entry}": (without(entry), f"{entry} is None" if entry not in ("version", "sha256") else "is not a file")
        for entry in ("names", "dtypes", "steps", "state", "rule", "constants", "version", "sha256")
    },
    **{f"version {x}": (put(version=x), "is of version") for x in (0, -1, True, "1", None, [1], 1.0, 10**400, {})},
    "int32 declared float64": (cast("int32"), "damaged: param/weight is int32 of shape .*, not float64"),
    "int64 declared float64": (cast("int64"), "damaged: param/weight is int64"),
    "complex": (cast("complex64", "complex64"), "dtypes is"),
    "halves whose state is half": (cast("float16", "float16"), "damaged: v/weight is float16 of shape .*, not float32"),
    "float32 declared bfloat16": (cast("float32", "bfloat16"), "weight is of .* in bfloat16, here of .* in float64"),
    "an array missing": (lambda about, arrays: arrays.pop("v/bias"), "damaged: v/bias is"),
    "a parameter missing": (lambda about, arrays: arrays.pop("param/bias"), "damaged: param/bias is"),
    "an array too many": (put_array("x/bias", SHAPE), "damaged: it holds .*x/bias.*, which its names"),
    "a state of another shape": (put_array("s/bias", SHAPE), "damaged: s/bias is .*shape"),
    "a state that is a number": (put_array("s/bias", np.zeros(())), "damaged: s/bias is .*shape"),
    "a parameter of another shape": (put_array("param/bias", SHAPE), "damaged: v/bias is .*shape"),
    "a state of another dtype": (put_array("s/bias", np.zeros(2, "float32")), "damaged: s/bias is float32 of shape"),
    "nothing": (lambda about, arrays: (about.clear(), arrays.clear()), "is not a file"),
}  # fmt: skip


def refused_as_it_is(path, words):
    """By every tab's `load`, as a ValueError that names the file."""
    for tab in TABS:
        refused(path, f"{re.escape(str(path))}.*({words})", tab=tab)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_with_a_right_checksum_is_refused_as_a_whole(damage, tmp_path):
    change, words = DAMAGES[damage]
    saved(tmp_path / "run")
    about, arrays = content_of(tmp_path / "run")
    change(about, arrays)
    (tmp_path / "run").write_bytes(forged(about, arrays))
    refused_as_it_is(tmp_path / "run", words)


def test_other_json_than_save_writes_is_refused(tmp_path):
    saved(tmp_path / "run")
    about, arrays = content_of(tmp_path / "run")
    known = json.dumps({"sha256": "0" * 64} | about | {"sha256": "0" * 64})
    for text in (
        "", "5", "null", "[]", '"d2l"', "{", "[1]", "9" * 5000, DEEP, '{"version": ' + DEEP,
        '{"sha256": "", "version": 1}',
        known.replace('"steps": [1, 1]', f'"steps": {DEEP}'),
        known.replace('"steps": [1, 1]', f'"steps": [{"9" * 5000}]'),
        known.replace('"version": 3', '"version": 3, "sha256": "\\ud800"'),
        known.replace('"version": 3', '"version": 3, "sha256": ["x"]'),
    ):  # fmt: skip
        (tmp_path / "run").write_bytes(forged(text, arrays))
        refused(tmp_path / "run", f"{re.escape(str(tmp_path / 'run'))} is (not a file that|damaged)")
    for nested in (400, 800, 900, 950, 980):  # up to what Python reads
        text = known.replace('"steps": [1, 1]', f'"steps": {"[" * nested}1{"]" * nested}')
        (tmp_path / "run").write_bytes(forged(text, arrays))
        refused(tmp_path / "run", "is damaged: steps is|is not a file that")


def test_what_safetensors_does_not_read_is_refused(tmp_path):
    saved(tmp_path / "run")
    content = (tmp_path / "run").read_bytes()
    content = re.sub(rb"[0-9a-f]{64}", b"0" * 64, content, count=1)
    for old, new in (
        (b'"F64"', b'"F65"'), (b'"shape":[2]', b'"shape":[3]'), (b'"shape":[2]', b'"shape":-21'),
        (b'"data_offsets":[0,16]', b'"data_offsets":[1,16]'), (b"param/bias", b"param/\xff\xff\xff\xff"),
        (b'"shape":[2]', b'"shape":"2"'), (b'"F64"', b'"U64"'),
    ):  # fmt: skip
        assert old in content
        (tmp_path / "run").write_bytes(signed(content.replace(old, new, 1)))
        refused_as_it_is(tmp_path / "run", "damaged|not a file")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["weight", "v", "float64", 1, 2]),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["beta1", "eps", "lr", "x"]), x, max_size=3),
    max_leaves=6,
)


@examples(
    entry=st.sampled_from(["names", "dtypes", "steps", "state", "rule", "constants", "version"]),
    value=JSON,
    dropped=st.sampled_from([None, "v/bias", "param/weight"]),
)
def test_random_damage_is_refused_or_harmless(entry, value, dropped, tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "run"
    saved(path)
    about, arrays = content_of(path)
    about[entry] = value
    if dropped:
        arrays[dropped] = arrays[dropped].astype("float16")
    path.write_bytes(forged(about, arrays))
    problem = Problem("numpy", START)
    before = snapshot(problem)
    params = dict(zip(("weight", "bias"), problem.params, strict=True))
    refusal = None
    try:
        problem.module.load(path, params, problem.states, problem.hyperparams, rule="yogi")
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert str(path) in refusal
        assert snapshot(problem) == before
    else:  # what was put there is as good as what was
        assert not dropped
        problem.run("yogi", [[g[0] for g in GRADS]])


@pytest.mark.parametrize("tab", NATIVE)
def test_another_optimizer_is_refused(tab, tmp_path):
    native = Native(tab, "adam", START)
    with pytest.raises(TypeError, match=f"{tab}: the optimizer is .*; give a"):
        native.module.save(tmp_path / "run", native.params, "adam")
    with pytest.raises(ValueError, match=f"{tab}: .* is none of"):
        native.module.save(tmp_path / "run", Native(tab, "adam", [START[0]] * 3).params[2:], of_native(native)[1])
    assert not os.listdir(tmp_path)


def test_arguments_that_make_no_sense_are_refused(tmp_path):
    problem, native = Problem("pytorch", START), Native("pytorch", "yogi", START)
    save, (params, optimizer) = native.module.save, of_native(native)
    for error, words, arguments in (
        (TypeError, "give the hyperparams of the step too", (problem.params, problem.states)),
        (
            ValueError,
            "'t' is 0; the time step is a whole number",
            (problem.params, problem.states, {"lr": 0.1, "t": 0}),
        ),
        (ValueError, "unknown rule 'lyon'; known: adam, yogi", (problem.params, problem.states, {"t": 1}, "lyon")),
        (ValueError, "state of parameter 0", (problem.params, problem.states, {"t": 1}, "adagrad")),
        (ValueError, "state of parameter 1", (problem.params, [problem.states[0], None], {"t": 1})),
        (
            ValueError,
            "pytorch: yogi has no momentum; it has lr, beta1, ",
            (problem.params, problem.states, {"t": 1, "momentum": 0.5}, "yogi"),
        ),
        (ValueError, "pytorch: steps is ", (problem.params, problem.states, {"t": 1e300})),
        (ValueError, "pytorch: constants is .*a b", (problem.params, problem.states, {"t": 1, "a b": 0.5})),
        (ValueError, "2 parameters, .*1 states", (problem.params, problem.states[:1], {"t": 1})),
        (
            ValueError,
            r"are named \['1', '1'\]; give each a name",
            (dict(zip((1, "1"), params, strict=True)), optimizer),
        ),
        (TypeError, "give no hyperparams and no rule with an optimizer", (params, optimizer, {"t": 1})),
        (TypeError, "params is torch.Tensor; give a list", (params[0].detach(), optimizer)),
    ):
        with pytest.raises(error, match=words):
            save(tmp_path / "run", *arguments)
    with pytest.raises(TypeError, match=r"numpy: states is .*; give a list, with the state"):
        protocol.load("numpy").save(tmp_path / "run", START, optimizer)
    whole = of_complex_numbers()
    with pytest.raises(TypeError, match=r"pytorch: 0 is torch\.complex64; the file holds real parameters only"):
        save(tmp_path / "run", *whole)
    assert not os.listdir(tmp_path)


def of_complex_numbers():
    import torch

    params = [torch.nn.Parameter(torch.zeros(1, dtype=torch.complex64))]
    return params, protocol.load("pytorch").Yogi(params)


@pytest.mark.parametrize("tab", [tab for tab in NATIVE if tab != "jax"])  # a state there does not know its constants
def test_a_native_optimizer_with_other_constants_is_refused(tab, tmp_path):
    native = Native(tab, "yogi", START, betas=(0.5, 0.75))
    run(native, 0, 2)
    native.module.save(tmp_path / "run", *of_native(native))
    for other, words in (
        (Native(tab, "yogi", START), "was made with beta[12] 0.7?5, here it is 0.9"),
        (Native(tab, "adam", START, betas=(0.5, 0.75)), "is of yogi, here is adam"),
    ):
        run(other, 0, 1)
        before = str(other.values())
        with pytest.raises(ValueError, match=words):
            other.load(tmp_path / "run")
        assert str(other.values()) == before


def test_a_folder_that_cannot_be_written_keeps_what_it_has(tmp_path):
    with pytest.raises(OSError, match="missing"):
        saved(tmp_path / "missing" / "run")
    (tmp_path / "run").mkdir()
    with pytest.raises(OSError, match="run"):
        saved(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]


KILLED = """
import numpy
from d2l_adam import numpy as tab

states, hyperparams = [(numpy.zeros(50_000), numpy.zeros(50_000))], {"lr": 0.1, "t": 1}
for n in range(1, 1_000_000):
    hyperparams["t"] = n + 1
    tab.save("run", [numpy.full(50_000, float(n))], states, hyperparams)
    print(n, flush=True)
"""


def test_killed_at_any_moment_the_old_file_or_the_new_one_is_there(tmp_path):
    from d2l_adam import numpy as tab

    rng = np.random.default_rng(0)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, cwd=tmp_path, text=True
        ) as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            last = int((["1", *process.stdout.read().split()])[-1])
        p, states, hyperparams = [np.zeros(50_000)], [(np.zeros(50_000), np.zeros(50_000))], {"lr": 0.1, "t": 1}
        tab.load(tmp_path / "run", p, states, hyperparams)
        assert (p[0] == hyperparams["t"] - 1).all()
        assert hyperparams["t"] - 1 in (last, last + 1)
    saved(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]


def test_the_docstring_says_what_is_in_the_file():
    assert re.findall(r"`(\w+)/NAME`", checkpoint.__doc__) == ["param", "STATE", "v", "s"]
