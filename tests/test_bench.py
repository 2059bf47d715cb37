"""What `bench` compares does the same work, and what it prints is what it measured."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
from click.testing import CliRunner
from frameworks import RULES, TABS

from d2l_adam import bench
from d2l_adam.__main__ import cli

SHAPES = bench.SIZES["chapter"]


def after(call, arrays, steps=3):
    for _ in range(steps):
        arrays.refill()
        call()
    return [np.asarray(arrays.module.TAB.asnumpy(p)) for p in arrays.params]


@functools.cache
def made(tab):
    """What each contestant makes of the parameters."""
    return {name: after(call, arrays) for name, call, arrays in bench.contestants(tab, SHAPES)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tab", TABS)
def test_our_contestants_make_the_step_of_the_rule(tab, rule):
    native = {"numpy": [], "tensorflow": ["optimizer, tf.function"]}.get(tab, ["optimizer"])
    first = "graph" if tab == "tensorflow" else "fused"
    expected = oracle.trajectory(rule, np.full(1, 0.5), np.full((3, 1), 0.5), lr=1e-3)[0, -1].item()
    ours = {name: params for name, params in made(tab).items() if name.startswith(f"{rule}, ")}
    assert list(ours) == [f"{rule}, {name}" for name in (first, "eager", "the chapter's code", *native)]
    for params in ours.values():
        for p in params:
            np.testing.assert_allclose(p, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tab", ["pytorch", "mxnet", "tensorflow"])
def test_the_frameworks_contestants_make_steps_of_adam(tab):
    theirs = {name: params for name, params in made(tab).items() if not name.startswith(("adam, ", "yogi, "))}
    assert len(theirs) == {"pytorch": 3, "mxnet": 2, "tensorflow": 4}[tab]
    for name, params in theirs.items():
        bare = name in ("mx.nd.adam_update", "tf.raw_ops.ResourceApplyAdam")  # the caller is to correct the bias
        for p in params:
            np.testing.assert_allclose(p, 0.497, rtol=0, atol=1e-2 if bare else 2e-5, err_msg=name)  # three steps of lr
            assert (p < 0.4972).all()


def test_large_cases_and_many_tensors_have_fewer_contestants(monkeypatch):
    monkeypatch.setattr(bench, "Arrays", lambda tab, shapes: SimpleNamespace(tab=tab))
    for table in ("_OURS", "_THEIRS"):
        monkeypatch.setattr(bench, table, nothing_done(getattr(bench, table)))
    names = lambda *case: [name for name, *_ in bench.contestants(*case)]  # noqa: E731
    assert names("tensorflow", bench.SIZES["1e8"], ["adam"]) == ["adam, graph", "keras Adam, tf.function"]
    assert "keras Adam, XLA" in names("tensorflow", SHAPES)
    assert "keras Adam, XLA" not in names("tensorflow", bench.SIZES["1000 x 1000"])
    assert "keras Adam, tf.function" in names("tensorflow", bench.SIZES["1000 x 1000"])


def nothing_done(table):
    if isinstance(table, dict):
        return {name: nothing_done(x) for name, x in table.items()}
    return lambda *args, **kwargs: None


def case(tab, size, **seconds):
    contestants = [{"name": name, "seconds": x, "turns": [x] * 5} for name, x in seconds.items()]
    return {"tab": tab, "size": size, "parameters": 10**7, "tensors": 1, "contestants": contestants}


def test_a_ratio_is_how_often_our_time_fits_into_the_other_s(monkeypatch):
    better = ("tensorflow", "1e7", "adam, fused", ("keras Adam, tf.function", "keras Adam, XLA"), 4)
    others = [
        ("tensorflow", "1e7", "adam, fused", ("memory",), 1),
        ("tensorflow", "1e7", "yogi, fused", ("adam, fused",), 1),
    ]
    monkeypatch.setattr(bench, "GOALS", [better, *others])
    ours, book = {"name": "train", "turns": [1.0, 2.0, 4.0]}, {"name": "book", "turns": [3.0, 6.0, 12.0]}
    seconds = {
        "adam, fused": 2.0,
        "yogi, fused": 4.0,
        "memory": 1.5,
        "keras Adam, tf.function": 9.0,
        "keras Adam, XLA": 7.0,
    }
    result = {"cases": [case("tensorflow", "1e7", **seconds)], "epochs": {"pytorch": [book, ours, ours]}}
    rows = {(row["ours"], row["against"]): row for row in bench.ratios(result)}
    assert rows["adam, fused", "keras Adam, XLA"]["ratio"] == 3.5  # the better of the two
    assert not rows["adam, fused", "keras Adam, XLA"]["met"]
    assert rows["adam, fused", "memory"]["ratio"] == pytest.approx(1.5 * 28 / 24 / 2)
    assert rows["yogi, fused", "adam, fused"]["ratio"] == 0.5
    assert rows["train", "book"] == {
        "at": "pytorch, an epoch", "ours": "train", "against": "book", "goal": 2, "met": True,
        "ratio": 3.0, "low": 3.0, "high": 3.0,
    }  # fmt: skip


def test_bench_prints_what_it_has_measured_and_on_what(tmp_path):
    arguments = ["bench", "--tab", "numpy", "--seconds", "0", "--no-epochs", "--out", str(tmp_path)]
    sizes = ["--size", "chapter", "--size", "1e5"]
    done = CliRunner().invoke(cli, [*arguments, *sizes, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["machine"]["versions"]["numpy"] == np.__version__
    assert [(case["size"], case["parameters"]) for case in result["cases"]] == [("chapter", 6), ("1e5", 10**5)]
    for x in result["cases"][1]["contestants"]:
        assert x["seconds"] == np.median(x["turns"]) > 0
    assert "memory" in [x["name"] for x in result["cases"][1]["contestants"]]
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert {file.name for file in tmp_path.iterdir()} == {"bench.svg", "bench.png", "bench.json"}
    done = CliRunner().invoke(cli, [*arguments, "--size", "chapter", "--rule", "yogi"])
    assert "numpy: 6 parameters in 2 tensors" in done.output
    assert "yogi, fused" in done.output
    assert "adam" not in done.output.replace("d2l_adam", "").replace("Adam", "")


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
def test_an_epoch_is_timed_with_d2l_s_function_and_ours():
    made = bench.epochs("pytorch", rounds=1)
    assert [x["name"] for x in made] == ["train_ch11, the chapter's code", "train_ch11, ours", "train"]
    assert all(len(x["turns"]) == 1 and x["seconds"] > 0 for x in made)
