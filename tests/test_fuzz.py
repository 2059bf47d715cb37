"""Sections and checkpoints damaged at random: nothing but findings and refusals comes of them.

`make fuzz` tries thousands, with another seed each time; the suite some. A failure names the seed that makes it again:
D2L_ADAM_SEED=... D2L_ADAM_FUZZ=1.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import random
import re
import time

import numpy as np
import pytest
from sections import OPTIMIZERS, fence, section

from d2l_adam import __main__, check, checkpoint, numpy
from d2l_adam.check import mutants, sandbox
from d2l_adam.check.tree import Tree

NUMBER = int(os.environ.get("D2L_ADAM_FUZZ", "100"))
SEED = int(os.environ.get("D2L_ADAM_SEED") or random.SystemRandom().randrange(10**9))


def each(number):
    """Seeds, of which the first is printed."""
    print(f"D2L_ADAM_SEED={SEED}, {number} of them")
    return range(SEED, SEED + number)


TABS = "numpy", "mxnet", "pytorch", "tensorflow"
PIECES = (
    *("```", "````", "~~~", "```{.python .input}", "#@tab ", "#@tab all", "%%tab pytorch, mxnet", ":begin_tab:`numpy`"),
    *(
        ":end_tab:",
        "if tab.selected('numpy'):",
        "def adam(params, states, hyperparams):",
        "adam = yogi = None",
        "(",
        ")",
    ),
    *("\0", "\x1b[2J", "\r", "\u2028", "\u202e", "重み", "::error::", "##[error]", "    ", "\t", "9" * 400, "9" * 4200),
    *("0x" + "f" * 5000, "-", "lambda:", "'''", "\\", "1e999", "nonlocal x", "return", "import *", "%magic", "!", "_"),
    *(
        "hyperparams['lr']",
        "hyperparams['\x1b']",
        "hyperparams[0]",
        "{'lr': 1e400}",
        "train(adam, {'lr': -0.0})",
        "for ",
    ),
)


def damaged_text(rng, text):
    """A text with some of it cut, doubled, moved or replaced."""
    for _ in range(rng.choice((0, 1, 1, 2, 3, 20))):
        lines = text.split("\n")
        i, j = sorted((rng.randrange(len(lines)), rng.randrange(len(lines))))
        at = rng.randrange(len(text) + 1)
        piece = rng.choice(PIECES)
        text = rng.choice(
            (
                text[:at] + piece + text[at:],
                text[:at] + text[at + rng.randrange(30) :],
                text[:at],
                "\n".join((*lines[:i], piece, *lines[i:])),
                "\n".join((*lines[:i], *lines[j:])),
                "\n".join((*lines[:j], *lines[i:])),
                "\n".join((*lines[:i], *lines[j:], *lines[i:j])),
                text.replace(rng.choice(("=", "0.9", "states", "p", "\n", "numpy")), piece, rng.choice((1, -1))),
            )
        )[:200_000]
    return text


def an_answer(rng, job):
    """What a process may answer: a path, a strange one, an error, or anything else."""
    path = [[0.0] * 49] * 362
    with contextlib.suppress(LookupError, ArithmeticError, ValueError):
        path = [row.tolist() for row in Tree(rng.choice((*OPTIMIZERS, job["name"]))).follow(job["runs"])]
    strange = [[rng.choice((float("nan"), float("inf"), 1e300, -1.0))] * 49] * 362
    answer = rng.choice(
        (
            {"path": path, "notes": [], "shapes": "[[]]"},
            {"path": rng.choice((strange, path[:-1], [], "1" * 9, [["x"]])), "notes": ["\x1b[2J"], "shapes": {}},
            {"error": "\n::error::\x1b"},
            {"error": {"a": [None]}, "notes": None},
            rng.choice(([], None, 9, "x", {}, {"path": None, "notes": {}})),
        )
    )
    line = bytearray(json.dumps(answer).encode())
    if rng.random() < 0.3:
        line[rng.randrange(len(line))] = rng.randrange(256)
    return sandbox._checked(bytes(line))


def test_damaged_sections_are_findings(tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "BUDGET", 100)  # a search takes seconds, and is the same for whatever was read
    file = tmp_path / "section.md"
    for seed in each(NUMBER):
        rng, began = random.Random(seed), time.monotonic()
        name = rng.choice(list(OPTIMIZERS))
        text = (
            section(name, rng.sample(TABS, rng.randint(1, 3))) + fence("all", "x = 1") + ":begin_tab:`x`\n:end_tab:\n"
        )
        file.write_text(damaged_text(rng, text), errors="replace")
        monkeypatch.setattr(
            sandbox,
            "run",
            lambda given, *_, rng=rng: [an_answer(rng, job) for job in given["jobs"]],
        )
        try:
            report = check.check([file], confine="off")
            lines = "\n".join([*report.annotations(), *(x.text() for x in report.findings)]).split("\n")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                __main__._print_json(report.as_dict())
                __main__._print_check(report)
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
        assert json.loads(printed.getvalue().split("\n")[0])["status"] == report.status in (0, 1, 2), seed
        assert all(line.isprintable() for line in lines), seed
        assert report.compared or report.of("unchecked"), seed
        assert time.monotonic() - began < 30, seed


def damaged_bytes(rng, content):
    """Some bytes changed, cut, doubled, or numbers and names in the header replaced; half with a right checksum."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        near = rng.randrange(min(len(data), 1200) + 1)  # where the header is
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.choice((1, 8, 10**6))]
            case 2:
                data[at:at] = data[near : near + rng.randrange(100)]
            case 3:
                data[near : near + 1] = rng.choice((b"9" * 30, b'"', b"{", b"[" * 2000, b"\\", b"NaN", b"-", b"\xff"))
            case 4:
                data[:8] = rng.choice((0, 1, 2**63, 2**64 - 1, len(data))).to_bytes(8, "little")
            case 5:
                old, new = rng.sample((b"F64", b"F32", b"BF16", b"null", b"1e999", b"weight", b"bias", b"-1", b"[]"), 2)
                data = data.replace(old, new, 1)
    found = re.search(rb"[0-9a-f]{64}", data)
    if found and rng.random() < 0.5:
        data[slice(*found.span())] = b"0" * 64
        data[slice(*found.span())] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def test_damaged_checkpoints_are_refused_or_whole(tmp_path):
    file = tmp_path / "run"
    params = {"weight": np.arange(6.0).reshape(3, 2), "bias": np.ones(2, "float32")}
    numpy.save(file, params, [(p + 1, p + 2) for p in params.values()], {"lr": 0.1, "t": 4, "beta1": 0.8}, rule="adam")
    content, refused = file.read_bytes(), 0
    for seed in each(2 * NUMBER):
        rng = random.Random(seed)
        file.write_bytes(damaged_bytes(rng, content))
        new = {name: np.zeros_like(p) for name, p in params.items()}
        states, hyperparams = [(np.zeros_like(p), np.zeros_like(p)) for p in new.values()], {"lr": 0.1, "t": 1}
        refusal = None
        try:
            checkpoint._read(file)
            numpy.load(file, new, states, hyperparams, rule="adam")
        except ValueError as error:
            refusal = str(error)
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
        if refusal:
            refused += 1
            assert str(file) in refusal, seed
            assert hyperparams == {"lr": 0.1, "t": 1}, seed
            assert not any(x.any() for x in (*new.values(), *itertools.chain(*states))), seed
    assert refused > NUMBER
