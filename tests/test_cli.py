"""The command line, as its users run it: in a process of its own."""

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import oracle
import pytest
from click.testing import CliRunner
from frameworks import TABS
from test_imports import with_folder

import d2l_adam
from d2l_adam import data, protocol
from d2l_adam.__main__ import cli


def command(*arguments, cwd, python=("-m", "d2l_adam"), env=None):
    done = subprocess.run(
        [sys.executable, *python, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=env
    )
    return done.returncode, done.stdout, done.stderr


def invoke(*arguments):
    """The same in this process."""
    done = CliRunner().invoke(cli, arguments)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *command("run", cwd=folder)


def test_run_prints_one_table_and_exits_with_0(everything):
    _, status, printed, progress = everything
    assert status == 0, progress
    for tab in TABS:
        for rule in ("adam", "yogi"):
            assert any(tab in line and rule in line for line in printed.splitlines())
    assert "training" in progress


def test_run_writes_the_picture(everything):
    build = everything[0] / "build"
    assert (build / "curves.png").read_bytes().startswith(b"\x89PNG")
    svg = (build / "curves.svg").read_text()
    assert svg.startswith("<?xml")
    assert "<svg" in svg


def test_run_writes_the_curves(everything):
    rows = list(csv.DictReader((everything[0] / "build" / "curves.csv").read_text().splitlines()))
    assert len(rows) == len(TABS) * 2 * 15
    for tab in TABS:
        for rule in ("adam", "yogi"):
            losses = [float(row["loss"]) for row in rows if (row["tab"], row["rule"]) == (tab, rule)]
            np.testing.assert_allclose(losses, oracle.curve(rule), rtol=0, atol=1e-6)


def test_json_is_for_programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, _ = invoke("run", "--json", "--tab", "pytorch", "--rule", "yogi", "--lr", "0.02")
    result = json.loads(printed)
    assert (status, result["holds"], result["lr"], result["tolerance"]) == (0, True, 0.02, 1e-6)
    assert [curve["tab"] for curve in result["curves"]] == ["numpy", "pytorch"]
    expected = oracle.curve("yogi", lr=0.02)
    np.testing.assert_allclose(result["curves"][1]["losses"], expected, rtol=0, atol=1e-6)
    # The reference is in float64, though the others are in float32.
    np.testing.assert_allclose(result["curves"][0]["losses"], expected, rtol=0, atol=1e-14)


def test_a_curve_too_far_at_one_point_exits_with_1(tmp_path, monkeypatch):
    right = protocol.train

    def wrong(tab, rule, **settings):
        history = right(tab, rule, **settings)
        if tab == "pytorch":
            history.losses[3] += 2e-6
        return history

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(protocol, "train", wrong)
    status, printed, _ = invoke("run", "--tab", "pytorch", "--rule", "adam")
    assert status == 1
    assert "TOO FAR" in printed


def train_made_up(tab, rule, **settings):
    start, off = {"adam": 0.25, "yogi": 0.5}[rule], {"numpy": 0.0, "pytorch": 3e-15, "mxnet": 2e-14}[tab]
    return protocol.History([0.5, 1.0, 1.5], [start, start / 2 + off, start / 4 - off / 3], 1.25 + start, [])


@pytest.fixture(scope="module", params=["float32", "float64"])
def made_up(request, tmp_path_factory):
    """A run whose curves are known: their table, csv and json, and what it exits with."""
    folder, arguments = tmp_path_factory.mktemp("run"), ["run", "--tab", "pytorch", "--dtype", request.param]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(protocol, "train", train_made_up)
        status, printed, _ = invoke(*arguments)
        other, as_json, _ = invoke(*arguments, "--json")
    assert status == other == 0
    rows = csv.DictReader((folder / "build" / "curves.csv").read_text().splitlines())
    return printed, list(rows), json.loads(as_json)


def test_the_json_says_what_the_curves_were(made_up):
    _, _, result = made_up
    assert [(curve["tab"], curve["rule"]) for curve in result["curves"]] == [
        (tab, rule) for rule in ("adam", "yogi") for tab in ("numpy", "pytorch")
    ]
    for curve in result["curves"]:
        start, off = {"adam": 0.25, "yogi": 0.5}[curve["rule"]], {"numpy": 0.0, "pytorch": 3e-15}[curve["tab"]]
        assert curve["losses"] == [start, start / 2 + off, start / 4 - off / 3]
        assert curve["epochs"] == [0.5, 1.0, 1.5]
        assert curve["distances"] == pytest.approx([0.0, off, off / 3], abs=1e-16)
        assert curve["max_distance"] == max(curve["distances"])
        assert (curve["final_loss"], curve["seconds_per_epoch"]) == (curve["losses"][-1], 1.25 + start)


def test_the_table_shows_the_numbers_of_the_json(made_up):
    printed, _, result = made_up
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    assert rows == [
        [
            curve["tab"],
            curve["rule"],
            f"{curve['final_loss']:.6f}",
            "reference" if curve["tab"] == "numpy" else f"{curve['max_distance']:.1e}",
            f"{curve['seconds_per_epoch']:.3f}",
        ]
        for curve in result["curves"]
    ]
    assert f"Loss curves in {result['dtype']}; allowed distance {result['tolerance']:.0e}" in printed


def test_the_csv_has_the_points_of_the_json(made_up):
    _, rows, result = made_up
    assert [(row["tab"], row["rule"], *(float(row[x]) for x in ("epoch", "loss", "distance"))) for row in rows] == [
        (curve["tab"], curve["rule"], *point)
        for curve in result["curves"]
        for point in zip(curve["epochs"], curve["losses"], curve["distances"], strict=True)
    ]


@pytest.mark.needs("mxnet", "pytorch")
def test_float64_is_held_to_the_tolerance_of_float64(tmp_path, monkeypatch, made_up):
    result = made_up[2]
    assert result["tolerance"] == {"float32": 1e-6, "float64": 1e-14}[result["dtype"]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(protocol, "train", train_made_up)
    status, printed, _ = invoke("run", "--tab", "mxnet", "--dtype", result["dtype"])  # off by 2e-14
    assert (status, "2.0e-14 TOO FAR" in printed) == {"float32": (0, False), "float64": (1, True)}[result["dtype"]]


def test_a_diverging_curve_exits_with_1_and_its_json_has_no_nan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diverges = ("run", "--tab", "pytorch", "--rule", "adam", "--lr", "1e30")
    status, printed, _ = invoke(*diverges)
    assert (status, "TOO FAR" in printed) == (1, True)
    status, printed, _ = invoke(*diverges, "--json")
    result = json.loads(printed, parse_constant=pytest.fail)
    assert (status, result["holds"], result["curves"][1]["final_loss"]) == (1, False, None)


def without(*packages):
    hidden = ";".join(f"sys.modules[{package!r}] = None" for package in packages)
    return "-c", f"import sys; {hidden}; from d2l_adam.__main__ import main; main()"


def test_run_leaves_out_what_is_not_installed_and_says_so(tmp_path):
    status, printed, _ = command("run", cwd=tmp_path, python=without("mxnet", "tensorflow"))
    assert status == 0
    assert "mxnet: not installed, left out; see d2l-adam info" in printed
    assert "tensorflow: not installed" in printed
    assert "pytorch" in printed


def test_run_fails_when_what_was_asked_for_is_not_installed(tmp_path):
    status, printed, said = command("run", "--tab", "mxnet", "--tab", "numpy", cwd=tmp_path, python=without("mxnet"))
    assert status == 1
    assert "mxnet: mxnet is not installed; pip install --no-deps mxnet==1.9.1" in said
    assert "numpy" in printed


def test_info_names_versions_and_the_data():
    status, printed, _ = invoke("info", "--json")
    result = json.loads(printed)
    assert (status, result["sound"], result["d2l_adam"]) == (0, True, d2l_adam.__version__)
    assert result["data"] == {"file": str(data.path()), "checksum": "holds"}
    for tab in TABS:
        protocol.load(tab)  # a bare `import mxnet` may fail
        assert result["frameworks"][tab]["version"] == sys.modules[protocol.MODULE[tab]].__version__
        assert result["frameworks"][tab]["d2l"] == {"numpy": None, "jax": "ours"}.get(tab, "1.0.3")


def test_info_says_how_to_install_the_others():
    status, printed, _ = command("info", cwd=".", python=without("mxnet", "tensorflow", "torch"))
    assert status == 0
    assert "pip install tensorflow" in " ".join(printed.replace("│", " ").split())
    assert "checksum: holds" in printed


def test_info_fails_if_what_is_installed_does_not_work(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('[red]libc10.so[/red]: no such file')")
    options = {"cwd": ".", "python": without("mxnet", "tensorflow"), "env": with_folder(tmp_path) | {"COLUMNS": "200"}}
    status, printed, _ = command("info", **options)
    assert status == 1
    assert "cannot be imported ([red]libc10.so[/red]: no such file)" in printed
    status, printed, _ = command("info", "--json", **options)
    result = json.loads(printed)
    assert (status, result["sound"], result["frameworks"]["pytorch"]["version"]) == (1, False, None)
    assert result["frameworks"]["pytorch"]["note"].startswith("torch is installed but cannot be imported ([red]libc10")


def test_info_fails_on_damaged_data(tmp_path):
    code = (
        "import sys; from pathlib import Path; from d2l_adam import data, __main__\n"
        "Path('airfoil_self_noise.dat').write_text('1'); data.FOLDERS = (Path('.'),)\n"
        "sys.modules |= dict.fromkeys(['mxnet', 'torch', 'tensorflow']); sys.argv[1:] = ['info']; __main__.main()"
    )
    status, printed, _ = command(cwd=tmp_path, python=("-c", code))
    assert status == 1
    assert "is damaged" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--lr", "-1", "--tab", "numpy"), "Error: numpy: hyperparameter 'lr' is -1.0; the learning rate is"),
        (("run", "--batch-size", "0", "--tab", "numpy"), "Error: batch_size is 0; give a whole number from 1 on"),
        (("run", "--tab", "caffe"), "'caffe' is not one of"),
        (("run", "--seed", "-1", "--tab", "numpy"), "Error: seed is -1; give a whole number from 0 on"),
        (("run", "--tab", "numpy", "--out", __file__), "is a file"),
        (("walk",), "No such command 'walk'"),
    ],
)
def test_a_mistake_of_the_user_s_is_one_line_and_status_2(tmp_path, arguments, words):
    status, _, said = command(*arguments, cwd=tmp_path)
    assert status == 2
    assert words in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run", "bench"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(name, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/build", "/proc/build"):
        status, printed, said = command(name, "--out", folder, cwd=tmp_path)
        assert (status, printed) == (2, "")
        assert said.splitlines()[-1].startswith("Error: ")
        assert "training" not in said and "measuring" not in said
    assert [x.name for x in tmp_path.iterdir()] == ["file"]


WAITS = """
import sys, time
from d2l_adam import __main__, protocol
def waits(*_, **__):
    print("here", flush=True)
    time.sleep(60)
protocol.train = waits
sys.argv[1:] = ["run", "--tab", "numpy"]
__main__.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_its_status(number, tmp_path):
    arguments = [sys.executable, "-c", WAITS]
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, b"Traceback" in said) == (128 + number, False)


def test_what_a_user_has_written_is_printable_in_an_error(tmp_path):
    status, _, said = command("run", "--tab", "a\n::error::b", cwd=tmp_path)
    assert status == 2
    assert not [line for line in said.splitlines() if line.startswith("::")]


@pytest.mark.parametrize("name", ["run", "info"])
def test_every_command_has_help_with_an_example(name):
    _, printed, _ = command(name, "--help", cwd=".")
    assert f"Example: d2l-adam {name}" in printed
