"""What `bench` compares does the same work, and what it prints is what it measured."""

import functools
import json
import math

import numpy as np
import oracle
import pytest
from click.testing import CliRunner
from frameworks import RULES, TABS

from d2l_adam import bench, protocol
from d2l_adam.__main__ import cli


@functools.cache
def made(tab):
    """Where each contestant has taken the parameters in three steps."""
    ends = {}
    for contestant in bench.contestants(tab, bench.SHAPES["chapter"]):
        for _ in range(3):
            contestant.refill()
            contestant.step()
        ends[contestant.name] = [np.asarray(protocol.load(tab).TAB.asnumpy(p)) for p in contestant.params]
    return ends


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tab", TABS)
def test_our_contestants_make_the_step_of_the_rule(tab, rule):
    expected = oracle.trajectory(rule, np.full(1, 0.5), np.full((3, 1), 0.5), lr=1e-3)[0, -1].item()
    for p in made(tab)[rule]:
        np.testing.assert_allclose(p, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tab", TABS)
def test_the_last_contestant_is_another_adam(tab):
    *ours, other = made(tab)
    assert ours == [*RULES]
    assert (
        other
        == {
            "pytorch": "torch.optim.Adam(fused=True)",
            "tensorflow": "keras.optimizers.Adam",
            "mxnet": "mx.optimizer.Adam",
            "jax": "optax.adam",
            "numpy": "the chapter's code",
        }[tab]
    )
    for p in made(tab)[other]:
        np.testing.assert_allclose(p, 0.497, rtol=0, atol=2e-5)  # three steps of lr
        assert (p < 0.4972).all()


def test_the_models_have_the_shapes_of_their_papers():
    numbers = {name: (len(shapes), sum(map(math.prod, shapes))) for name, shapes in bench.MODELS.items()}
    assert numbers == {"mlp": (6, 109_386), "resnet50": (161, 25_557_032), "gpt2": (148, 124_439_808)}


def test_a_ratio_is_how_often_our_time_fits_into_the_other_s():
    def contestant(name, *turns):
        return {"name": name, "turns": turns}

    adam, yogi, keras = contestant("adam", 1.0, 2.0), contestant("yogi", 4.0, 8.0), contestant("keras", 3.0, 6.0)
    case = {"tab": "tensorflow", "size": "1e7", "contestants": [adam, yogi, keras]}
    another = case | {"size": "1e5"}
    book, ours = contestant("book", 6.0, 6.0), contestant("ours", 3.0, 3.0)
    rows = bench.ratios({"cases": [case, another], "epochs": {"pytorch": [book, ours, ours]}})
    got = [tuple(row[key] for key in ("at", "ours", "against", "ratio", "goal", "met")) for row in rows]
    assert got == [
        ("tensorflow, 1e7", "adam", "keras", 3.0, 1.3, True),
        ("tensorflow, 1e7", "yogi", "keras", 0.75, 1.3, False),
        ("tensorflow, 1e5", "adam", "keras", 3.0, None, True),
        ("tensorflow, 1e5", "yogi", "keras", 0.75, None, True),
        ("pytorch, an epoch", "ours", "book", 2.0, 1.3, True),
        ("pytorch, an epoch", "ours", "book", 2.0, 2, True),
    ]


def test_bench_prints_what_it_has_measured_and_on_what(tmp_path):
    arguments = ["bench", "--tab", "numpy", "--seconds", "0", "--no-epochs", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli, [*arguments, "--size", "1e6", "--model", "mlp", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["machine"]["versions"]["numpy"] == np.__version__
    assert [(case["size"], case["parameters"]) for case in result["cases"]] == [("1e6", 10**6), ("mlp", 109_386)]
    for x in result["cases"][1]["contestants"]:
        assert x["seconds"] == np.median(x["turns"]) > 0
    book = result["cases"][0]["contestants"][-1]
    if book["memory"] is not None:  # Linux says how much memory is used: the chapter's code makes several new arrays
        assert result["cases"][0]["contestants"][0]["memory"] < 2e6 < 8e6 < book["memory"] < 4e7
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert {file.name for file in tmp_path.iterdir()} == {"bench.svg", "bench.png", "bench.json"}
    done = CliRunner().invoke(cli, [*arguments, "--size", "chapter", "--rule", "yogi"])
    assert "numpy, chapter" in done.output
    assert "yogi" in done.output
    assert "adam" not in done.output.replace("d2l_adam", "")


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
def test_an_epoch_is_timed_with_d2l_s_function_and_ours():
    made = bench.epochs("pytorch", rounds=1)
    assert [x["name"] for x in made] == ["train_ch11, the chapter's code", "train_ch11, ours", "train"]
    assert all(len(x["turns"]) == 1 and x["seconds"] > 0 for x in made)
