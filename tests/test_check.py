"""The check: every defect that is put into a tab is found and named, and nothing that is right is called wrong."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from sections import IMPORTS, OPTIMIZERS, fence, init, section

from d2l_adam import spec
from d2l_adam.__main__ import cli
from d2l_adam.check import Finding, check, drift, drive, markdown, mutants, sandbox
from d2l_adam.check import report as report_of
from d2l_adam.check.tree import Tree
from d2l_adam.rule import WORDS
from d2l_adam.spec import maximum, sqrt, square

TABS = ("mxnet", "pytorch", "tensorflow")
CHAPTER = Path(__file__).parents[1] / "chapter_optimization"


def put(old, new):
    """A defect: some text of the right code replaced, once."""

    def change(text):
        assert old in text, text
        return text.replace(old, new, 1)

    return change


def both(one, other):
    return lambda text: other(one(text))


# By optimizer: a defect, and what has to be said of it.
DEFECTS = {
    "adam": [
        (put("/ (sqrt(s_hat) + eps)", "/ sqrt(s_hat) + eps"), "eps outside the fraction"),
        (put("lr * v_hat / (sqrt(s_hat) + eps)", "(lr * v_hat / sqrt(s_hat) + eps)"), "eps outside the fraction"),
        (put("sqrt(s_hat) + eps", "sqrt(s_hat + eps)"), "eps inside the root"),
        (put("\nt = t + 1", ""), "t never advanced"),
        (put("\nt = t + 1", "\nt, for each p = t + 1"), "t advanced for each parameter, not for each step"),
        (put("1e-6", "1e-8"), "eps = 1e-08 instead of 1e-06"),
        (put("1e-6", "10 ** -3"), "eps = 0.001 instead of 1e-06"),
        (put("1e-6", "1 / 4e5"), "eps = 2.5e-06 instead of 1e-06"),
        (put("0.9,", "0.85,"), "beta1 = 0.85 instead of 0.9"),
        (put("0.999", "0.99"), "beta2 = 0.99 instead of 0.999"),
        (put("* square(g)", "* g"), "no square: g for square(g), in s"),
        (put("v / (1 - beta1 ** t)", "v"), "the bias of v not corrected"),
        (put("s / (1 - beta2 ** t)", "s"), "the bias of s not corrected"),
        (put("p - lr", "p + lr"), "the sign flipped in p - lr * v_hat / (sqrt(s_hat) + eps), in p"),
        (put("1 - beta2 ** t", "1 + beta2 ** t"), "the sign flipped in 1 - beta2 ** t, in s_hat"),
        (put("v = beta1", "v not stored = beta1"), "v not stored"),
        (put("s = beta2", "s not stored = beta2"), "s not stored"),
        (put("beta2 * s", "beta2 * v"), "v for s in s"),
        (put("(1 - beta1) * g", "g"), "the factor (1 - beta1) left out of v"),
        (put(" + eps", ""), "eps left out of p"),
        (put("lr * v_hat", "0.01 * v_hat"), "lr = 0.01 whatever hyperparams says"),
        (put("1 - beta1 ** t", "1 - beta1"), "beta1 for beta1 ** t, in v_hat"),
        (put("sqrt(s_hat)", "s_hat"), "no sqrt: s_hat for sqrt(s_hat), in p"),
    ],
    "yogi": [
        (put("1e-3", "1e-6"), "eps = 1e-06 instead of 0.001"),
        (put("sign(square(g) - s) * ", ""), "the factor sign(square(g) - s) left out of s"),
        (put("- s) * square(g)", "- s)"), "the factor square(g) left out of s"),
        (put("sign(square(g) - s)", "sign(s - square(g))"), "s - square(g) for square(g) - s, in s"),
        (put("sign(square(g) - s) * square(g)", "(square(g) - s)"), "s as in adam"),
    ],
    "sgd": [(put("- lr", "+ lr"), "the sign flipped in p - lr * g, in p")],
    "sgd_momentum": [
        (put("+ g", "+ (1 - momentum) * g"), "the factor (1 - momentum) before g, in v"),
        (put("momentum * v", "0.8 * v"), "momentum = 0.8 whatever hyperparams says"),
    ],
    "adagrad": [(put("s + square", "square"), "s left out of s")],
    "rmsprop": [(put("sqrt(s + eps)", "(sqrt(s) + eps)"), "eps outside the root: sqrt(s) + eps, in p")],
    "adadelta": [(put("square(step)", "square(g)"), "g for d in delta")],
}
#: The first of each optimizer is put into every tab, the others into one, in turn.
SEEDED = [
    (name, number, tab)
    for name, defects in DEFECTS.items()
    for number in range(len(defects))
    for tab in (TABS if number == 0 else TABS[number % 3 :][:1])
]
# Those of the book, and some in which one defect hides much of the other.
PAIRS = [
    ("adam", (0, 3)), ("yogi", (-1, 0)), ("adam", (2, 5)), ("adam", (3, 9)), ("adam", (4, 8)),
    ("adam", (11, 12)), ("adam", (15, 10)), ("adam", (1, 18)), ("yogi", (0, 1)), ("rmsprop", (0, -1)),
]  # fmt: skip


def others():
    """The sections of the tests further below, checked all in one run, too."""
    three, wrong, common = ("numpy", "mxnet", "pytorch"), put("1e-3", "1e-6"), put("1e-6", "1e-8")
    moves = {"numpy": common, "mxnet": common, "pytorch": both(common, put("\nt = t + 1", ""))}
    in_three = [fence(tab, lion(tab, "+" if tab == "mxnet" else "-")) for tab in three]
    in_three += [section("yogi", three, {"numpy": wrong, "pytorch": wrong}), section("adam", three, moves)]
    in_two = [fence(tab, lion(tab, "+" if tab == "pytorch" else "-")) for tab in ("numpy", "pytorch")]
    together = {"in three": in_three, "in two": in_two}
    for how, (file, old, new) in SHARED.items():
        together.setdefault(file, []).append(called(SAID[how][0], old, new))
    alone = {how: text for how, (text, _, _) in SAID.items() if how not in SHARED}
    return FINE | alone | {file: "".join(texts) for file, texts in together.items()}


def called(text, name, new):
    """A section in which an optimizer has another name."""
    return re.sub(rf"\b{name}(?=[(,])", new, text)


def seeded():
    """One file of all defects, each in an optimizer of its own in one tab, which NumPy's is right beside."""
    extra = DEFECTS | {
        "yogi": [*DEFECTS["yogi"], DEFECTS["adam"][0]],
        "rmsprop": [*DEFECTS["rmsprop"], (put("1e-6", "1e-4"), "eps = 0.0001 instead of 1e-06")],
    }
    parts = []
    for name, number, tab in SEEDED:
        text = section(name, ("numpy", tab), {tab: DEFECTS[name][number][0]})
        parts.append(called(text, name, f"{name}_{number}_{tab}"))
    for i, (name, (one, other)) in enumerate(PAIRS):
        tab, change = TABS[(one + other) % 3], both(extra[name][one][0], extra[name][other][0])
        parts.append(called(section(name, ("numpy", tab), {tab: change}), name, f"{name}_pair_{i}"))
        PAIR_WORDS[i] = tuple(sorted(extra[name][one][1:] + extra[name][other][1:]))
    return "".join(parts)


PAIR_WORDS = {}


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    """Files: the defects, all optimizers rightly, and the sections of the tests further below."""
    folder = tmp_path_factory.mktemp("book")
    files = {"seeded": seeded(), "clean": "".join(section(name, TABS) for name in OPTIMIZERS)} | others()
    paths = {}
    for number, (key, text) in enumerate(files.items()):
        paths[key] = folder / f"{number}.md"
        paths[key].write_text(text)
    return paths


@pytest.fixture(scope="module")
def report(sections):
    return check(list(sections.values()))


def of(report, kind, file, name=None):
    return [x for x in report.of(kind) if x.file == str(file) and name in (None, x.name)]


def test_every_section_could_be_checked(report):
    assert report.of("unchecked") == []
    assert report.status == 1


@pytest.mark.parametrize(("name", "number", "tab"), SEEDED)
def test_a_defect_is_found_and_named(name, number, tab, sections, report):
    file, new = sections["seeded"], f"{name}_{number}_{tab}"
    [found] = of(report, "drift", file, new)
    assert found.tab == tab
    assert file.read_text().split("\n")[found.line - 1].startswith(f"def {new}(")
    assert (DEFECTS[name][number][1],) in found.causes, found.text()
    assert re.match(r"differs from numpy and the spec from step \d+ \(", found.message)


@pytest.mark.parametrize("i", range(len(PAIRS)))
def test_two_defects_at_once_are_named_both(i, sections, report):
    [found] = of(report, "drift", sections["seeded"], f"{PAIRS[i][0]}_pair_{i}")
    assert PAIR_WORDS[i] in [tuple(sorted(some)) for some in found.causes], found.text()


def test_what_is_right_is_not_called_wrong(sections, report):
    file = sections["clean"]
    assert of(report, "drift", file) == of(report, "note", file) == []
    compared = {x.name: x.verdict for x in report.compared if x.file == str(file)}
    assert compared.keys() == OPTIMIZERS.keys()
    for name, verdict in compared.items():
        assert (verdict.groups, verdict.matches_spec, verdict.rule) == ([list(TABS)], True, name)


def test_rounding_and_drift_are_far_apart(report):
    rounding, smallest = report.margin()
    assert rounding < 0.3
    assert smallest > 10


def written(folder, **texts):
    files = []
    for name, text in texts.items():
        files.append(folder / f"{name}.md")
        files[-1].write_text(text)
    return files


def adam(tab, *body, head=""):
    """A section in which the `adam` of a tab is made of some lines."""
    return fence(tab, "\n".join((head, "def adam(params, grads, states, hyperparams):", *(f"    {x}" for x in body))))


IMPORT = "import ctypes, mmap, os, resource, signal, socket, sys, time\nimport numpy as np\nimport no_such_module"
EACH = ["for i in range(3, 99):", "    try: os.write(i, {})", "    except OSError: pass"]
AFTER = "raise ValueError('after')"
SLEEP = "time.sleep(99)"


def hostile(there, ports):
    """What code may do that it should not, and what has to be said of it: in any process, or in a confined one only."""
    chmods = [f"os.chmod({there!r}, 0)", f"ctypes.CDLL(None).chmod({os.fsencode(there)!r}, 0)"]
    limited = "it did not end within 5 seconds, and was ended"
    anywhere = {
        "loops": (["while True: pass"], limited),
        "sleeps": ([SLEEP], limited),
        "stops": (["os.kill(os.getpid(), signal.SIGSTOP)"], limited),
        "raises": (["raise ValueError('no such', 'thing')"], "ValueError: ('no such', 'thing') (line 7)"),
        "exits": (["exit(0)"], "it calls exit"),
        "leaves": (["os._exit(3)"], "it ended its process, with status 3"),
        "crashes": (["ctypes.string_at(0)"], "its process was ended by SIGSEGV"),
        "signals": (["signal.raise_signal(40)"], "its process was ended by signal 40"),
        "ends its group": (["os.killpg(0, signal.SIGKILL)"], "its process was ended by SIGKILL"),
        "eats": (["x = []", "while True: x.append(np.zeros(10**8))"], "MemoryError"),
        "recurses": (["adam(params, grads, states, hyperparams)"], "RecursionError"),
        "prints": (["while True: print('x' * 10**6)"], "OSError: [Errno 27] File too large"),
        "fills a file": (["open('x', 'wb').write(bytes(1 << 25))"], "OSError: [Errno 27] File too large"),
        "fills memory": (["os.truncate(os.memfd_create('x'), 1 << 40)"], "OSError: [Errno 27] File too large"),
        "opens": (["[os.memfd_create('x') for _ in range(999)]"], "OSError: [Errno 24] Too many open files"),
        "forks": (["for _ in range(20):", f"    if not os.fork(): {SLEEP}", AFTER], "ValueError: after"),
        "asks": (["input('your name?')"], "EOFError"),
        "misses": (["no_such_module.step()"], "ModuleNotFoundError: No module named 'no_such_module'"),
        "looks around": (["raise ValueError(os.environ.get('SECRET'))"], "ValueError: None"),
        "forges": ([*EACH, "os._exit(0)"], "what it answers is no path"),
        "mutters": (["while True:", *(f"    {x}" for x in EACH)], limited),
        "closes": (["os.closerange(3, 99)", "while True: pass"], limited),
        "escapes": (["raise ValueError('\\x1b[31mred')"], "ValueError: ?[31mred"),
        "forgets": (["hyperparams['no such key']['t']"], "TypeError"),
        "digs": (
            ["for _ in range(1500): os.mkdir('d'); os.chdir('d')", "os.chmod('.', 0)", AFTER],
            "ValueError: after",
        ),
    }
    for name in ("forges", "mutters"):
        text = "b'[]\\n'" if name == "forges" else "b'x' * 99"
        anywhere[name] = ([x.format(text) for x in anywhere[name][0]], anywhere[name][1])
    confined = {
        "stops its parent": (["os.kill(os.getppid(), signal.SIGSTOP)", AFTER], "ValueError: after"),
        "hides": (["for _ in range(20):", f"    if not os.fork(): os.setsid(); {SLEEP}", AFTER], "ValueError: after"),
        "starts": ([f"os.system('touch ' + {there!r})", AFTER], "ValueError: after"),
        "writes": ([f"open({there!r}, 'w')"], "No such file"),
        "removes": ([f"os.remove({there!r})"], "No such file"),
        "chmods": ([f"{chmods[0]}"], "No such file"),
        "chmods in C": ([chmods[1], AFTER], "ValueError: after"),
        "changes Python": (["os.utime(sys.prefix)"], "OSError: [Errno 30] Read-only file system"),
        "changes a device": (["os.chmod('/dev/null', 0)", AFTER], "ValueError: after"),
        "changes the kernel": (["open('/proc/sys/vm/swappiness', 'w')"], "Read-only file system"),
        "fills the folder": (
            ["for i in range(99): open(str(i), 'wb').write(bytes(1 << 23))"],
            "OSError: [Errno 28] No space left on device",
        ),
        "reads": (["raise ValueError(os.listdir(os.path.expanduser('~root')))"], "Error: "),
        "connects": ([f"socket.create_connection(('127.0.0.1', {ports[0]}))"], "ConnectionRefusedError"),
        "sends": ([f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {ports[1]}))", AFTER], "after"),
        "talks": (
            [f"os.chdir({os.path.dirname(there)!r})", "socket.socket(socket.AF_UNIX).connect('there.socket')"],
            "No such file",
        ),
    }
    return anywhere, confined


def processes(mark):
    """The processes that have a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("LD_LIBRARY_PATH") == mark and process.pid != os.getpid():
                found.append(process)
    return found


def none_left(mark):
    """Wait a little until processes with a mark are gone."""
    for _ in range(50):
        if not processes(mark):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="limits, and bubblewrap, are of Linux")
@pytest.mark.parametrize("confine", ["required", "off"])
def test_what_must_not_be_done_is_not_done_and_the_others_go_on(confine, tmp_path, monkeypatch):
    if confine == "required" and not sandbox.bubblewrap():  # which no package index has; CI installs it
        missing = os.environ.get("CI") and not shutil.which("bwrap")
        (pytest.fail if missing else pytest.skip)("bubblewrap is not installed, or not allowed to do anything")
    there, mark = tmp_path / "there", str(tmp_path)
    there.write_text("stays")
    there.chmod(0o640)
    monkeypatch.setenv("SECRET", "a secret")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("LD_LIBRARY_PATH", mark)  # one that is handed on
    before, null = there.stat(), os.stat("/dev/null")
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as unix:
            unix.bind("there.socket")  # from here, as its whole name may be too long
            unix.listen()
            anywhere, confined = hostile(str(there), (tcp.getsockname()[1], udp.getsockname()[1]))
            cases = anywhere | (confined if confine == "required" else {})
            texts = {name: adam("numpy", *body, head=IMPORT) for name, (body, _) in cases.items()}
            texts["last"] = section("adam", ("numpy",))
            began = time.monotonic()
            report = check(written(tmp_path, **texts), timeout=5, memory=1, confine=confine)
            assert time.monotonic() - began < 240
            for listening, receive in ((tcp, tcp.accept), (udp, lambda: udp.recv(9)), (unix, unix.accept)):
                listening.setblocking(False)
                with pytest.raises(BlockingIOError):
                    receive()
    said = {Path(x.file).stem: x.message for x in report.of("unchecked")}
    assert said.keys() == cases.keys()
    assert {name: said[name] for name, (_, words) in cases.items() if words not in said[name]} == {}
    assert report.status == 2
    [good] = report.compared
    assert Path(good.file).stem == "last"
    assert good.verdict.matches_spec
    assert none_left(mark)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert there.read_text() == "stays"
    after = there.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert os.stat("/dev/null").st_mode == null.st_mode
    assert [x.message for x in report.of("note") if not x.file] == [sandbox.UNCONFINED] * (confine == "off")


def test_what_is_answered_may_be_of_its_own_file_only(tmp_path):
    forged = 'b\'{"error": "forged"}\\n\' * 2'
    bad = adam("numpy", *(x.format(forged) for x in EACH), "os._exit(0)", head=IMPORT)
    other = fence("numpy", "def other(params, grads, states, hyperparams): pass")
    report = check(written(tmp_path, bad=bad + other, good=section("sgd", ("numpy",))))
    assert {(Path(x.file).stem, x.name) for x in report.of("unchecked") if "forged" in x.message} == {
        ("bad", "adam"),
        ("bad", "other"),
    }
    assert [x.name for x in report.compared] == ["sgd"]


def test_where_it_has_to_be_confined_and_cannot_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "bubblewrap", tuple)
    [file] = written(tmp_path, sgd=section("sgd", ("numpy",)))
    monkeypatch.setattr(sandbox, "run", lambda *_: pytest.fail("it was run"))
    with pytest.raises(ValueError, match=r"nothing was run, .*apt install bubblewrap"):
        check([file], confine="required")


def test_a_tab_that_hangs_keeps_no_other_from_being_compared(tmp_path):
    text = section("yogi", ("numpy", "mxnet", "pytorch"))
    text = text.replace("        with torch.no_grad():", "        while True: pass\n        with torch.no_grad():")
    report = check(written(tmp_path, yogi=text), timeout=8)
    assert [(x.tab, "did not end" in x.message) for x in report.of("unchecked")] == [("pytorch", True)]
    assert report.compared[0].verdict.groups == [["numpy", "mxnet"]]


BAD = {
    "syntax": (fence("numpy", "def adam(params, states, hyperparams):\n    return ("), 4, "this cell is no Python ('("),
    "fence": ("# One\n\n```{.python .input}\n#@tab numpy\nx = 1\n", 3, "this fence is never closed"),
    "unknown": (
        fence("paddle", "def adam(params, states, hyperparams): pass"),
        None,
        "1 optimizers; mxnet,",
    ),
    "arity": (
        adam("numpy", "pass") + fence("mxnet", "def adam(params): pass"),
        9,
        "it takes (params); write it as def adam(params, states, hyperparams)",
    ),
    "lambda": (
        section("adam", ("numpy",)) + fence("mxnet", "adam = lambda params, states, hyperparams: None"),
        31,
        "it is not made by def; write it as def adam(",
    ),
    "latin": (b"\xff\xfe\x00", None, "is no text in UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_said(name, tmp_path):
    text, line, words = BAD[name]
    file = tmp_path / f"{name}.md"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    report = check([file])
    assert report.status == 2
    [found] = report.of("unchecked")
    assert (found.line, words in found.message) == (line, True), found.text()


@pytest.mark.parametrize("text", ["", "\n", "# No code\n", fence("all", "x = 1"), fence("numpy", "def f(x): pass")])
def test_a_file_without_optimizers_is_no_agreement(text, tmp_path):
    report = check(written(tmp_path, empty=text))
    assert report.status == 2
    assert "no optimizer was found" in report.findings[0].message
    assert markdown.READ in report.findings[0].message


PLAIN = "# Adam\n\n```{}\ndef adam(params, states, hyperparams): pass\n```\n"
UNREAD = {
    "adam.py": ("def adam(params, states, hyperparams): pass", None, "it is a file .py"),
    "adam": ("", None, "it is a file without suffix"),
    "folder.md": (None, None, "it is a folder"),
    "plain.md": (PLAIN.format("python"), 3, "a fence ```python is no cell"),
    "MYST.MD": (PLAIN.format("{code-cell} ipython3"), 3, "a fence ```{code-cell} ipython3 is no cell"),
    "quarto.md": (PLAIN.format("{python}") + PLAIN.format("py"), 3, "a fence ```{python} is no cell"),
}


def test_what_is_not_read_is_said_beside_what_is(tmp_path):
    both = fence("numpy", "def f(x): pass") + PLAIN.format("python")
    files = written(tmp_path, sgd=section("sgd", ("numpy",)), both=both, shell=PLAIN.format("bash"))
    for name, (text, *_) in UNREAD.items():
        files.append(tmp_path / name)
        files[-1].mkdir() if text is None else files[-1].write_text(text)
    done = CliRunner().invoke(cli, ["check", "--json", *map(str, files)])
    result = json.loads(done.stdout)
    assert (done.exit_code, len(result["optimizers"])) == (2, 1)
    found = {Path(x["file"]).name: x for x in result["findings"] if x["kind"] == "unchecked"}
    assert found.keys() == UNREAD.keys()
    for name, (_, line, words) in UNREAD.items():
        assert (found[name]["line"], found[name]["message"].partition(": ")[2]) == (line, f"{words}; {markdown.READ}")


def test_a_framework_that_is_not_here_is_said_with_the_cure(tmp_path, monkeypatch):
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    monkeypatch.setenv("PYTHONPATH", str(absent))
    report = check(written(tmp_path, adam=section("adam", ("numpy", "pytorch"))), confine="off")
    [found] = report.of("unchecked")
    assert (found.tab, found.line) == ("pytorch", None)
    assert "could not be checked: torch" in found.message
    assert "pip install torch" in found.message
    assert report.status == 2
    assert report.compared[0].verdict.groups == [["numpy"]]


def in_torch(name, *changes, head=""):
    """A section in NumPy and PyTorch, some text of the latter replaced, and some put before it."""
    one, two = section(name, ("numpy", "pytorch")).split("#@tab pytorch")
    for old, new in changes:
        two = put(old, new)(two)
    return f"{one}#@tab pytorch\n{head}{two}"


STEP = "p[:] = p - hyperparams['lr'] * v_hat / (torch.sqrt(s_hat) + eps)"
EPS_HAT = (
    "c = (1 - beta2 ** hyperparams['t']) ** 0.5; p[:] = p - hyperparams['lr'] * c * v_hat / (torch.sqrt(s) + c * eps)"
)
ELSEWHERE = ("beta1, beta2, eps = 0.9, 0.999, 1e-6", "(beta1, beta2), eps = BETAS, EPS")
WAYS = {
    "moved": (STEP, "p.data.sub_(hyperparams['lr'] * v_hat / (s_hat.sqrt() + eps))"),
    "in_place": (STEP, "p.addcdiv_(v_hat, s_hat.sqrt().add_(eps), value=-hyperparams['lr'])"),
    "as_a_product": (STEP, "p[:] = p - (hyperparams['lr'] / (s_hat ** 0.5 + eps)) * v_hat"),
    "eps_hat_rightly": (STEP, EPS_HAT),
    "optional": ("1e-6", "hyperparams.get('eps', 1e-6)"),
}
# What is neither drift nor worth a note: other ways to write a step, constants elsewhere, states of another kind from
# the function that the section trains with, and helpers beside.
FINE = {
    "other ways": "".join(called(in_torch("adam", change), "adam", name) for name, change in WAYS.items()),
    "changed in place": in_torch("adam", ELSEWHERE, head="EPS = 1e-3\nEPS /= 1000\nBETAS = (0.9, 0.999)"),
    "computed": in_torch("adam", ELSEWHERE, head="EPS: float = float('1e-6')\nBETAS = 0.9, 1 - 1e-3"),
    "a class": in_torch("adam", ELSEWHERE, head="class C:\n    eps = 1e-6\nEPS, BETAS = C.eps, (0.9, 0.999)"),
    "states": section("sgd_momentum", ("numpy", "pytorch"))
    .replace("init_momentum_states", "momentum_zeros")
    .replace("return ((*w, *b) if 1 == 1 else (w, b))", "return {0: w[0], 1: b[0]}")
    .replace("zip(params, states", "zip(params, states.values()")
    + fence("pytorch", "def _rate(params, states, hyperparams): return 1\ndef clip(params, theta): pass"),
}


@pytest.mark.parametrize("how", FINE)
def test_another_way_to_write_it_is_no_drift(how, sections, report):
    file = str(sections[how])
    assert [x for x in report.findings if x.file == file] == []
    verdicts = [x.verdict for x in report.compared if x.file == file]
    assert len(verdicts) == (len(WAYS) if how == "other ways" else 1)
    for verdict in verdicts:
        assert (verdict.groups, verdict.matches_spec, verdict.rounding < 0.3) == ([["numpy", "pytorch"]], True, True)


ZEROED = "        p.grad.zero_()\n"
DIM = "init_adagrad_states(feature{}_dim)"
ARGUMENT = section("adagrad", ("numpy", "mxnet", "pytorch")).split("#@tab pytorch")
# What is no drift but worth a note, and drift of a kind that the defects above are not.
SAID = {
    "zeroes": (in_torch("sgd", (ZEROED, "")), "note", "does not set the gradients to zero; backward adds to them"),
    "returns": (
        in_torch("sgd", (ZEROED, f"{ZEROED}    return params\n")),
        "note",
        "returns a value, which d2l's train_ch11 does not look at",
    ),
    "prints": (in_torch("sgd", (ZEROED, f"{ZEROED}    print('.')\n")), "note", "prints (720 bytes)"),
    "argument": (
        "#@tab pytorch".join((ARGUMENT[0], ARGUMENT[1].replace("feature_dim", "features_dim", 2))),
        "note",
        f"has states from {DIM.format('s')}; in numpy and mxnet it is {DIM.format('')}",
    ),
    "shapes": (
        section("adagrad", ("numpy", "pytorch")).replace("(1,)))\n    return", "(1, 1)))\n    return", 1),
        "note",
        "starts from states of the shapes [[48, 1], [1]]; in numpy it is [[48, 1], [1, 1]]",
    ),
    "missing": (
        section("sgd", ("numpy", "pytorch")) + fence("mxnet", "x = 1"),
        "note",
        "is not defined in this tab; it is in numpy and pytorch",
    ),
    "alone": (section("sgd", ("numpy",)), "note", "is in this tab only; there is no other to compare it with"),
    "other": (
        section("adam", ("numpy", "pytorch")).replace("0.9, 0.999, 1e-6", "0.9, 0.999, 1e-8"),
        "note",
        "numpy and pytorch are not adam of the spec, but behave as: eps = 1e-08 instead of 1e-06",
    ),
    "moves the weight": (in_torch("sgd", ("in params:", "in params[:1]:")), "drift", ", in the bias only"),
    "moves the bias": (in_torch("sgd", ("in params:", "in params[1:]:")), "drift", ", in the weight only"),
    "rebound": (
        in_torch("sgd", ("for p in params:", "for i, p in enumerate(params):"), ("p[:] = p", "params[i] = p")),
        "drift",
        "behaves as: lr * g left out of p",
    ),
    "strange": (
        in_torch("adam", (STEP, f"{STEP} * 1.37")),
        "drift",
        "behaves as: no change of the spec that is known here",
    ),
}


#: Those that share a file: which, the name of each, and its name there.
SHARED = {
    "zeroes": ("changed", "sgd", "zeroes"),
    "returns": ("changed", "sgd", "returns"),
    "prints": ("changed", "sgd", "prints"),
    "moves the weight": ("changed", "sgd", "moves_weight"),
    "moves the bias": ("changed", "sgd", "moves_bias"),
    "rebound": ("changed", "sgd", "rebound"),
    "strange": ("changed", "adam", "strange"),
    "argument": ("in three", "adagrad", "adagrad"),
    "shapes": ("in two", "adagrad", "adagrad"),
    "other": ("in two", "adam", "adam"),
}


@pytest.mark.parametrize("how", SAID)
def test_what_is_unlike_is_said(how, sections, report):
    _, kind, words = SAID[how]
    file, _, name = SHARED.get(how, (how, None, None))
    [found] = of(report, kind, sections[file], name)
    assert words == found.message if kind == "note" else words in found.text()
    assert of(report, "unchecked", sections[file], name) == []
    assert kind == "drift" or of(report, "drift", sections[file], name) == []


# Judgement


def lion(tab, sign="-"):
    """An optimizer of which the package has no rule."""
    word, zero = {"numpy": ("np", "g"), "pytorch": ("torch", "p.grad"), "mxnet": ("np", "p.grad")}[tab]
    passed = "grads, " if tab == "numpy" else ""
    loop = "p, v, g in zip(params, states, grads)" if passed else "p, v in zip(params, states)"
    no_grad = "@torch.no_grad()\n" if tab == "pytorch" else ""
    return (
        f"{IMPORTS[tab]}\n\n{init(tab, 'sgd_momentum').replace('init_momentum', 'init_roar')}\n\n"
        f"{no_grad}def roar(params, {passed}states, hyperparams):\n    for {loop}:\n"
        f"        p[:] = p {sign} hyperparams['lr'] * {word}.sign(0.8 * v + 0.2 * {zero})\n"
        f"        v[:] = 0.99 * v + 0.01 * {zero}\n" + ("        p.grad.zero_()\n" if tab == "pytorch" else "")
    )


def test_a_rule_that_is_not_in_the_spec_is_compared_but_not_named(sections, report):
    [odd], [doubtful] = (of(report, "drift", sections[file], "roar") for file in ("in three", "in two"))
    assert odd.tab == "mxnet"
    assert odd.message.startswith("differs from numpy and pytorch from step 1")
    assert odd.causes is None
    assert "behaves" not in odd.text()
    assert doubtful.tab == "pytorch"
    assert doubtful.message.endswith("; which of them is right cannot be told")
    assert [of(report, "note", sections[file], "roar") for file in ("in three", "in two")] == [[], []]


def test_the_spec_decides_where_most_tabs_are_wrong(sections, report):
    file = sections["in three"]
    assert [(x.tab, x.causes) for x in of(report, "drift", file, "yogi")] == [
        (tab, [("eps = 1e-06 instead of 0.001",)]) for tab in ("numpy", "pytorch")
    ]
    [compared] = [x for x in report.compared if (x.file, x.name) == (str(file), "yogi")]
    assert compared.verdict.groups[0] == ["mxnet"]


def test_a_defect_that_all_tabs_have_is_not_named_as_one_tab_s(sections, report):
    file = sections["in three"]
    [found] = of(report, "drift", file, "adam")
    assert (found.tab, found.causes) == ("pytorch", [("t never advanced",)])
    [note] = of(report, "note", file, "adam")
    assert note.message == "numpy and mxnet are not adam of the spec, but behave as: eps = 1e-08 instead of 1e-06"


def test_what_one_section_does_changes_no_other(tmp_path):
    changes = ["np.sqrt = lambda x: x", "d2l_adam.check.drive.drive = None", "np.set_printoptions = np.zeros = None"]
    bad = adam("numpy", *changes, "raise ValueError('done')", head="import numpy as np\nimport d2l_adam.check.drive")
    report = check(written(tmp_path, a=bad, b=section("adam", ("numpy",)), c=bad, d=section("yogi", ("numpy",))))
    assert [Path(x.file).stem for x in report.of("unchecked")] == ["a", "c"]
    assert [x.verdict.matches_spec for x in report.compared] == [True, True]


def adam_with(*words):
    """The rule, runs of it, and the path that it takes with some changes."""
    tree, runs = Tree("adam"), drive.settings(("lr", "t"))
    known = {x.words: x for x in reversed(mutants.changes(tree))}
    return tree, runs, drift.Path(list(tree.follow(runs, [known[x] for x in words])))


def test_the_clock_has_no_part_in_a_search(monkeypatch):
    clock = itertools.count(step=100)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    words = "t never advanced", "eps outside the fraction"
    tree, runs, path = adam_with(*words)
    search = mutants.explain(tree, runs, path.fits)
    assert words in search.causes
    assert not search.stopped


def test_a_search_that_was_stopped_is_no_search_in_vain(tmp_path, monkeypatch):
    change = both(put("/ (sqrt(s_hat) + eps)", "/ sqrt(s_hat) + eps"), put("\nt = t + 1", ""))
    sections = {
        "differs": section("adam", ("numpy", "mxnet"), {"mxnet": change}),
        "agrees": section("adam", ("numpy", "mxnet"), {"numpy": change, "mxnet": change}),
    }
    monkeypatch.setattr(mutants, "BUDGET", 1000)
    report = check(written(tmp_path, **sections))
    report.findings = [x for x in report.findings if x.file]
    [odd], [note] = report.of("drift"), report.of("note")
    said = "not known; the search was stopped before all changes of {} were tried"
    assert (odd.causes, odd.stopped, odd.behaves()) == ([], True, f"behaves as: {said.format('the spec')}")
    assert note.message == f"numpy and mxnet are not adam of the spec, but behave as: {said.format('it')}"
    result = report.as_dict()
    assert [x["stopped"] for x in result["findings"]] == [True, True]
    assert [(x["causes"], x["stopped"]) for x in result["optimizers"]] == [([], False), ([], True)]
    assert result["optimizers"][0]["odd"]["mxnet"]["stopped"] is True
    assert said.format("the spec") in report.annotations()[0]


def test_what_a_stopped_search_has_found_stands(monkeypatch):
    words = "the bias of s not corrected", "the bias of v not corrected"
    tree, runs, path = adam_with(*words)
    whole = mutants.explain(tree, runs, path.fits)
    monkeypatch.setattr(mutants, "BUDGET", 12_000)
    search = mutants.explain(tree, runs, path.fits)
    assert search.stopped
    assert not whole.stopped
    assert search.causes == whole.causes[: len(search.causes)]
    assert 0 < len(search.causes) < len(whole.causes)
    found = Finding("drift", "", None, "", "numpy", "differs", *search)
    assert found.behaves().endswith("; the search for more ways to say it was stopped")


def amsgrad(p, g, v, s, top, t, lr, beta1=0.9, beta2=0.999, eps=1e-6):
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    top = maximum(top, s)
    p = p - lr * (v / (1 - beta1**t)) / (sqrt(top) + abs(eps))
    return p, v, s, top


@pytest.mark.parametrize("rule", [*spec.RULES, amsgrad], ids=lambda x: getattr(x, "__name__", x))
def test_a_rule_as_a_tree_is_the_rule(rule):
    tree = Tree(rule)
    runs = drive.settings([name for name, x in tree.rule.numbers.items() if x.default is None])
    function = tree.rule.bound({word: getattr(np, word) for word in WORDS})

    def step(run, t, p, g, *state):
        return function(p, g, *state, **run | {"t": t})

    own = drive.follow(step, tree.rule.initial.values(), runs)
    assert all(np.array_equal(x, y) for x, y in zip(own, tree.follow(runs), strict=True))


# What is tried of a rule, and what must not be, for each number of states.
TRIED = {
    "sgd": ({"lr * g left out of p", "p for g in p"}, ("stored", "before the step for g", "t ")),
    "adagrad": (
        {"s not stored", "the s from before the step for s in p", "s as in rmsprop"},
        ("v", "each other", "t "),
    ),
    "adadelta": (
        {
            "s and delta stored in each other's place",
            "delta not stored",
            "the delta from before the step for delta in d",
        },
        ("v", "t "),
    ),
    "adam": ({"v and s stored in each other's place", "t never advanced", "s as in yogi", "v as in sgd_momentum"}, ()),
    amsgrad: (
        {
            *(f"{x} stored in each other's place" for x in ("v and s", "v and top", "s and top")),
            *("top not stored", "the top from before the step for top in top", "s computed before v", "s as in yogi"),
            *("top for maximum(top, s), in top", "s for maximum(top, s), in top", "no abs: eps for abs(eps), in p"),
        },
        (),
    ),
}


@pytest.mark.parametrize("rule", TRIED, ids=lambda x: getattr(x, "__name__", x))
def test_what_is_tried_holds_for_the_state_that_a_rule_has(rule):
    some, never = TRIED[rule]
    words = [x.words for x in mutants.changes(Tree(rule))]
    assert some <= {*words}
    assert not [x for x in words for start in never if re.search(rf"\b{start}", x)]


# The command


def test_the_chapter_itself_has_no_drift():
    report = check([CHAPTER / "adam.md"])  # whose cells are those of the English section: see tests/test_chapter.py
    assert report.status == 0, [x.text() for x in report.findings]
    assert {(x.name, tuple(x.verdict.groups[0]), x.verdict.matches_spec) for x in report.compared} == {
        (rule, (*TABS, "jax"), True) for rule in ("adam", "yogi")
    }
    assert len(report.compared) == 2


def test_what_is_printed(tmp_path, monkeypatch):
    drives, run = {}, sandbox.run

    def once(given, *options):
        key = json.dumps(given)
        drives[key] = drives.get(key) or run(given, *options)
        return drives[key]

    monkeypatch.setattr(sandbox, "run", once)
    monkeypatch.chdir(tmp_path)
    change = both(put("/ (sqrt(s_hat) + eps)", "/ sqrt(s_hat) + eps"), put("\nt = t + 1", ""))
    Path("adam.md").write_text(section("adam", ("numpy", "mxnet"), {"mxnet": change}))
    line = Path("adam.md").read_text().split("def adam(params, states")[0].count("\n") + 1
    done = CliRunner().invoke(cli, ["check", "adam.md"])
    assert done.exit_code == 1
    head, behaves = (done.stdout[done.stdout.index("adam.md:") :]).splitlines()[:2]
    assert head.startswith(f"adam.md:{line}  adam  mxnet  differs from numpy and the spec from step 1 (max ")
    assert behaves == "            behaves as: t never advanced; eps outside the fraction"
    notes = "0 notes" if sandbox.bubblewrap() else "1 note"
    assert f"1 optimizer in 1 file: 1 drifted, 0 could not be checked, {notes}." in done.stdout
    assert "Running the code of 1 file" in done.stderr

    done = CliRunner().invoke(cli, ["check", "adam.md", "--json"])
    result = json.loads(done.stdout)
    assert (done.exit_code, result["status"]) == (1, 1)
    assert result["findings"][0]["causes"] == [["t never advanced", "eps outside the fraction"]]
    assert result["optimizers"][0]["odd"]["mxnet"]["step"] == 1

    done = CliRunner().invoke(cli, ["check", "adam.md", "--github"])
    assert done.stdout.startswith(f"::error file=adam.md,line={line},title=drift adam mxnet::differs from numpy")
    assert "%0Abehaves as: t never advanced; eps outside the fraction" in done.stdout
    assert len(done.stdout.splitlines()) == 1

    done = CliRunner().invoke(cli, ["check", "adam.md", "--tab", "torch"])
    assert done.exit_code == 2
    assert "no optimizer was found" in done.stdout
    assert "no tab torch; there are numpy, mxnet" in done.stdout

    Path("broken.md").write_text(section("adam", ("numpy", "mxnet"), {"mxnet": lambda source: "(" + source}))
    done = CliRunner().invoke(cli, ["check", "adam.md", "broken.md", "--json"])
    kinds = {x["kind"] for x in json.loads(done.stdout)["findings"]}
    assert (done.exit_code, {"drift", "unchecked"} <= kinds) == (2, True)

    done = CliRunner().invoke(cli, ["check", "adam.md", "--tab", "numpy"])
    assert done.exit_code == 0
    assert "is in this tab only" in done.stdout


def test_cells_without_a_tab_are_of_the_default_one(tmp_path):
    text = section("sgd", ("numpy", "mxnet")).replace("#@tab numpy\n", "")
    [file] = written(tmp_path, sgd=text)
    arguments = ["check", "--json", str(file)]
    result = json.loads(CliRunner().invoke(cli, arguments).stdout)  # mxnet has two cells, and the last one stands
    assert result["optimizers"][0]["groups"] == [["mxnet"]]
    result = json.loads(CliRunner().invoke(cli, [*arguments, "--default-tab", "numpy"]).stdout)
    assert result["optimizers"][0]["groups"] == [["numpy", "mxnet"]]
    (tmp_path / "config.ini").write_text("[build]\ntabs = numpy, mxnet\n")
    result = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert result["optimizers"][0]["groups"] == [["numpy", "mxnet"]]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("confine", ["auto", "off"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_processes_and_leaves_no_folder(number, confine, tmp_path):
    [file] = written(tmp_path, adam=adam("numpy", "print('here', flush=True)", "while True: pass"))
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-m", "d2l_adam", "check", "--confine", confine, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    process.stderr.readline()  # "Running the code"
    for _ in range(300):
        time.sleep(0.1)
        if len(processes(str(tmp_path))) > 1:
            break
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert none_left(str(tmp_path))
    assert list((tmp_path / "tmp").iterdir()) == []


# One bad file is one finding


def bad_files(folder):
    """Files that cannot be checked, or are hard to, each with what is said of it, or "" if it is checked."""
    sgd, deep = section("sgd", ("numpy",)), folder.joinpath(*["d"] * 200)
    folders = {name: folder / name for name in ("a", "b", "c", "[red]x[")}
    for x in (*folders.values(), deep, folders["a"] / "config.ini", folder / "folder.md"):
        x.mkdir(parents=True)
    os.mkfifo(folder / "fifo.md")
    os.mkfifo(folders["b"] / "config.ini")
    (folders["c"] / "config.ini").write_text("hello")
    (folder / "loop.md").symlink_to(folder / "loop.md")
    texts = {
        "digits.md": (adam("numpy", f"x = 0x{'1' * 5000}"), "this cell is no Python (Exceeds the limit"),
        "fewer.md": (adam("numpy", f"x = {'1' * 4200}", "return"), ""),
        "ticks.md": ("`" * 200_000, None),
        "begins.md": (":begin_tab:`x`\n" * 16_000, None),
        "fences.md": ("".join(f"```{'`' * (i % 500)} {{.python .input}}\n" for i in range(3000)), "2980 more of this"),
        "ifs.md": (fence("numpy", "if " * 100_000), "this cell is no Python"),
        "cells.md": (fence("numpy", "x = 1") * 5000, None),
        "tabs.md": ("".join(fence(f"t{i}", "") for i in range(20_000)), "it has 20000 tabs; 16 is the most"),
        "functions.md": (fence("numpy", "".join(f"def f{i}(x): f{i + 1}(x)\n" for i in range(1000))) + sgd, ""),
        "optimizers.md": (
            fence("numpy", "".join(f"def f{i}(params, states, hyperparams): pass\n" for i in range(1000))),
            "it has 1000 optimizers; 200 is the most",
        ),
        "brackets.md": (adam("numpy", f"x = {'(' * 5000}"), "this cell is no Python"),
        "large.md": ("x" * 50_000_000, "has more than 1,048,576 characters"),
        "null.md": (adam("numpy", "x = '\0'"), "this cell is no Python"),
        "nonlocal.md": (adam("numpy", "nonlocal x"), "this cell is no Python"),
        "a/ini.md": (sgd, "config.ini is no regular file"),
        "b/ini.md": (sgd, "config.ini is no regular file"),
        "c/ini.md": (sgd, "config.ini cannot be read"),
        "[red]x[/red].md": (sgd, ""),
        "::error::x.md": (sgd, ""),
        "\n::error::\x1b[2J.md": (sgd, ""),
        "重み\udcff.md": (sgd, ""),
        str(deep / "deep.md"): (sgd, ""),
    }
    for name, (text, _) in texts.items():
        (folder / name).write_text(text)
    said = {name: words for name, (_, words) in texts.items()}
    said |= {"fifo.md": "is no regular file", "loop.md": "oop", "folder.md": "it is a folder", "missing.md": "No such"}
    return {str(folder / name): words for name, words in said.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="not all systems have such files")
def test_a_bad_file_is_a_finding_and_the_others_are_checked(tmp_path, monkeypatch):
    bad, ran = bad_files(tmp_path), []

    def run(given, *_):
        ran.append(given["file"])
        return [{"path": list(Tree("sgd").follow(job["runs"])), "notes": [], "shapes": ""} for job in given["jobs"]]

    monkeypatch.setattr(sandbox, "run", run)
    began = time.monotonic()
    report = check([Path(file) for file in bad])
    assert time.monotonic() - began < 60
    found = {}
    for x in report.of("unchecked"):
        found.setdefault(x.file, []).append(x.message)
    assert {file for file, words in bad.items() if words == ""} == set(ran)
    for file, words in bad.items():
        assert any(words in message for message in found[file]) if words else file not in found, (file, found.get(file))
        assert len(found.get(file, ())) <= 21
    for lines in ([x.text() for x in report.findings], report.annotations()):
        for line in "\n".join(lines).split("\n"):
            assert line.isprintable()
            assert not line.lstrip().startswith("::") or re.match("::(warning|notice) (file|title)=", line)
    assert sum(x.startswith("::") for x in report.annotations()) == len(report.findings)


def test_what_was_written_is_shown_and_does_nothing():
    assert report_of.shown("a\x1b[2J\r\n\u202e\udcff重み") == "a?[2J????重み"
    shown = {
        "::error::": "?::error::",
        " ::error": "? ::error",
        "\t::": "?::",
        "##[error]": "##?[error]",
        "a::b": "a::b",
    }
    assert {text: report_of.shown(text) for text in shown} == shown


@pytest.mark.parametrize("output", [("--json",), ("--github",), ()])
def test_a_terminal_may_lack_letters_and_a_reader_may_stop_reading(output, tmp_path):
    names = "重み", "bad\udcff", "[red]x"
    files = written(tmp_path, **{name: section("sgd", ("numpy",)) for name in names})
    command = [sys.executable, "-m", "d2l_adam", "check", *output, *map(str, files), "missing.md"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "COLUMNS": "300"}
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)
    printed = json.loads(done.stdout)["files"][0] if output == ("--json",) else done.stdout.decode("latin-1")
    assert ("重み" if output == ("--json",) else "\\u91cd\\u307f") in printed
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        process.stdout.close()
        assert (process.wait(120), b"Error" in process.stderr.read()) == (2, False)


@pytest.mark.parametrize(
    "options", ["--timeout nan", "--timeout inf", "--timeout 0", "--memory nan", "--memory inf", "--memory 1e300"]
)
def test_a_number_out_of_its_range_is_a_wrong_option(options):
    done = CliRunner().invoke(cli, ["check", *options.split(), "x.md"])
    assert (done.exit_code, "Invalid value" in done.stderr) == (2, True)


def moves(tab, line):
    grads = "grads, " if tab == "numpy" else ""
    return fence(tab, f"def lost(params, {grads}states, hyperparams):\n    for p in params: {line}")


LOST = moves("numpy", "p[:] = float('nan')") + moves("mxnet", "p[:] = p / 0 - p / 0")


def test_tabs_that_are_nan_do_not_agree(tmp_path):
    report = check(written(tmp_path, lost=LOST))
    assert (report.compared, report.status) == ([], 2)
    assert {x.tab: x.message for x in report.of("unchecked")} == dict.fromkeys(
        ("numpy", "mxnet"), "could not be compared: nearly all is NaN or infinite"
    )


def test_the_tabs_that_are_nan_are_those_that_drift(tmp_path):
    report = check(written(tmp_path, lost=LOST + moves("pytorch", "p.data -= 0.1 * p.grad; p.grad.zero_()")))
    assert [x.tab for x in report.of("drift")] == ["numpy", "mxnet"]


def test_an_optimizer_that_nowhere_reads_lr_is_compared_with_the_spec(tmp_path):
    text = section("adam", ("numpy",)).replace("hyperparams['lr']", "0.01")
    [compared] = check(written(tmp_path, adam=text)).compared
    assert compared.verdict.rule == "adam"
    assert compared.verdict.search.causes[0] == ("lr = 0.01 whatever hyperparams says",)


def test_what_behaves_as_the_spec_is_said_to():
    assert Finding("drift", causes=[()]).behaves() == "behaves as: the spec, as far as rounding can tell"
