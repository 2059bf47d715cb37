"""The chapter's two sources: the same cells, rendered from the spec, and prose that is so."""

import ast
import inspect
import itertools
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest

import cells
import d2l_adam
import references
from d2l_adam import data, protocol, spec
from d2l_adam.check import markdown

mxnet, torch, tf = protocol.load("mxnet").mxnet, protocol.load("pytorch").torch, protocol.load("tensorflow").tf

TEXTS = {name: (references.FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in references.SOURCES}
CELLS = {name: markdown.read(text) for name, text in TEXTS.items()}
PROSE = {name: [cell.source for cell in read if cell.kind == "markdown"] for name, read in CELLS.items()}
FRAMEWORKS = ("mxnet", "pytorch", "tensorflow")


def test_both_languages_have_the_same_cells():
    japanese, english = CELLS["adam"], CELLS["adam_origin"]
    assert [(cell.kind, cell.tabs) for cell in japanese] == [(cell.kind, cell.tabs) for cell in english]
    assert [c.source for c in japanese if c.kind == "code"] == [c.source for c in english if c.kind == "code"]


def test_both_languages_have_the_same_structure():
    """The same headings' levels, labels, equations and references, in the same order."""
    for pattern in (r"^#+ ", r":label:`\w+`", r"\$\$.*?\$\$", r":(?:num|eq)ref:`\w+`|:citet?:`[\w.]+`", r"^\|"):
        found = [re.findall(pattern, text, re.MULTILINE | re.DOTALL) for text in TEXTS.values()]
        if "ref" in pattern:  # word order differs
            found = [sorted(set(references)) for references in found]
        assert found[0] == found[1], pattern
        assert found[0]
    assert re.search("[ぁ-ん]", TEXTS["adam"])
    assert not re.search("[ぁ-んァ-ン一-龥]", TEXTS["adam_origin"])


@pytest.mark.parametrize("name", TEXTS)
def test_cells_are_what_the_spec_renders_to(name):
    assert cells.refreshed(TEXTS[name]) == TEXTS[name], "run: make cells"
    rendered = [cell for cell in CELLS[name] if cells.rendered(cell)]
    assert [cell.tabs for cell in rendered] == [None, *((tab,) for tab in FRAMEWORKS)] * 2
    for tab in FRAMEWORKS:
        source = "\n".join(cell.source for cell in rendered if cell.of(tab))
        defined = re.findall(r"^def (\w+)", source, re.MULTILINE)
        assert defined == ["adam_rule", "init_adam_states", "adam", "yogi_rule", "yogi"]


def test_a_cell_that_drifts_is_found_and_mended():
    text = TEXTS["adam"]
    for right, wrong in (("np.sqrt(s_hat) + eps)", "np.sqrt(s_hat)) + eps"), ("(sqrt(s_hat) + eps)", "sqrt(s_hat)")):
        drifted = text.replace(right, wrong, 1)
        assert drifted != text
        assert cells.refreshed(drifted) == text


@pytest.mark.parametrize("name", TEXTS)
def test_marks_are_balanced_and_references_resolve(name):
    text = "\n\n".join(PROSE[name])
    assert text.count("[**") == text.count("**]") >= 5
    assert text.count("$") % 2 == 0
    assert TEXTS[name].count("\n:begin_tab:") == TEXTS[name].count("\n:end_tab:") == 3
    labels = re.findall(r":(?:eq)?label:`(\w+)`", text)
    assert len(labels) == len(set(labels))
    for kind in ("numref", "eqref"):
        assert {*re.findall(f":{kind}:`(\\w+)`", text)} <= {*labels, *references.SECTIONS}
    resolved = "\n".join(references.plain(PROSE[name], references.SOURCES[name]))
    assert not re.search(r":\w+:`|\[\*\*|\*\*\]|:begin_tab:", resolved)
    assert resolved.count(r"\tag{") == text.count(":eqlabel:") >= 8
    anchors = {title.replace(" ", "-") for title in re.findall(r"^#+ (.+)$", resolved, re.MULTILINE)}
    assert {*re.findall(r"\]\(#([^)]+)\)", resolved)} <= anchors


def test_the_bibliography_is_cited_and_complete():
    cited = set(re.findall(r":citet?:`([\w.]+)`", TEXTS["adam"]))
    keys = re.findall(r"^@\w+\{([\w.]+),", references.BIBLIOGRAPHY.read_text(), re.MULTILINE)
    assert cited == set(keys) == {"Kingma.Ba.2014", "Reddi.Kale.Kumar.2019", "Zaheer.Reddi.Sachan.ea.2018"}
    assert "Zaheer et al. (2018)" in "\n".join(references.plain(PROSE["adam_origin"], "en"))
    assert "Zaheer ら (2018)" in "\n".join(references.plain(PROSE["adam"], "ja"))
    assert references.references("ja").count("\n* ") == 3


def test_the_discussions_are_those_of_the_tab():
    for name, read in CELLS.items():
        for tab, thread in zip(FRAMEWORKS, ("358", "1078", "1079"), strict=True):
            [link] = [cell.source for cell in read if cell.tabs == (tab,) and cell.kind == "markdown"]
            assert link.endswith(f"(https://discuss.d2l.ai/t/{thread})"), name


def test_an_unknown_reference_is_named():
    with pytest.raises(KeyError, match="sec_nowhere"):
        references.plain(["See :numref:`sec_nowhere`."], "en")


# ---- the prose: every number in it is recomputed here --------------------------------------------


def numbers(text):
    """The numbers in a text; not those in code, in displayed equations, or of headings, indices and powers."""
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|^#.*$|\]\([^)]*\)|^1\. ", "", text, flags=re.MULTILINE)
    text = re.sub(r"10\^\{(-\d+)\}", r"1e\1", text)
    text = re.sub(r"[_^](\{[^}]*\}|\w)", "", text)
    return set(re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text))


def default(rule, name):
    return inspect.signature(rule).parameters[name].default


STEEP, PERIOD = 450, 300  # exercise 4
SLOPE = 1 - PERIOD
NUMBERS = {
    "0.9": lambda: default(spec.adam, "beta1"),
    "0.999": lambda: default(spec.yogi, "beta2"),
    "1e-6": lambda: default(spec.adam, "eps"),
    "1e-3": lambda: default(spec.yogi, "eps"),
    "0.01": lambda: default(d2l_adam.train, "lr"),
    "0.000001": lambda: protocol.TOLERANCE["float32"],
    "32": lambda: 1 / math.sqrt(1 - default(spec.adam, "beta2")),
    "300": lambda: (
        len(data.airfoil()[0]) / default(d2l_adam.train, "batch_size") * default(d2l_adam.train, "num_epochs")
    ),
    "299": lambda: -SLOPE,
    "450": lambda: STEEP,
    "0.889": lambda: SLOPE / -math.sqrt(STEEP**2 - SLOPE**2),
    "10": lambda: 0.03 / 0.003,
    # The table; that these defaults are those of the libraries is tested below.
    "0.001": lambda: torch.optim.Adam([torch.zeros(1)]).defaults["lr"],
    "1e-8": lambda: torch.optim.Adam([torch.zeros(1)]).defaults["eps"],
    "1e-7": lambda: tf.keras.optimizers.Adam().epsilon,
}
# Small whole numbers of the language and of the algebra, and what a test of its own stands for.
NAMED = {"0", "1", "2", "4", "0.0003", "0.3", "2.5"}


@pytest.mark.parametrize("name", TEXTS)
def test_every_number_of_the_prose_is_recomputed(name):
    found = set().union(*map(numbers, PROSE[name]))
    assert found - NAMED <= set(NUMBERS)
    for text in found - NAMED:
        digits = len(text.partition(".")[2]) if "e" not in text else 12
        assert round(NUMBERS[text](), digits) == float(text), text


def test_the_memories_and_the_floor_of_eps():
    beta1, beta2, eps = (default(spec.adam, name) for name in ("beta1", "beta2", "eps"))
    assert pytest.approx(100) == (1 - beta1) / (1 - beta2)  # "a hundred times as long"
    assert math.sqrt(eps) / eps == pytest.approx(1000)  # "a thousand times higher"


BRACKET = "(sqrt(s_hat) + eps)", "sqrt(s_hat) + eps"
SLIPS = {
    "adam: bracket lost": ("adam", *BRACKET),
    "adam: t stays 1": ("adam", "**t", "**1"),
    "yogi: bracket lost": ("yogi", *BRACKET),
    "yogi: eps of adam": ("yogi", "eps=1e-3", "eps=1e-6"),
}


def namespace_of_the_chapter(*starts):
    """What the cells for all tabs define that begin so, without their plots."""
    names = {"tab": protocol.load("numpy"), "d2l_adam": d2l_adam}
    for cell in CELLS["adam"]:
        if cell.kind == "code" and cell.tabs is None and cell.source.startswith(starts):
            exec(cell.source, names)
    return names


def test_the_slips_hide_in_the_curve_and_show_in_the_distance():
    names = namespace_of_the_chapter("import inspect")
    assert names["slips"] == SLIPS
    finals = [d2l_adam.train("numpy", "adam", seed=seed).losses[-1] for seed in range(20)]
    spread = max(finals) - min(finals)
    farthest = []
    for slip in SLIPS.values():
        right, wrong = (d2l_adam.train("numpy", rule).losses for rule in (slip[0], names["with_slip"](*slip)))
        distances = np.abs(np.subtract(right, wrong))
        assert distances[-1] < spread  # none moves the final loss by more than another seed
        assert distances[0] > protocol.TOLERANCE["float32"]  # all leave the line at the first point
        farthest.append(distances.max())
    assert sorted(x > 0.01 for x in farthest) == [False, False, True, True]  # two are invisible, two show
    assert sorted(farthest)[1] < 0.001


def test_a_zero_gradient_with_the_bracket_lost_is_not_a_number():
    names = namespace_of_the_chapter("import inspect")
    step = protocol.load("numpy").step(names["with_slip"](*SLIPS["yogi: bracket lost"]))
    p, states = np.ones(2), [(np.zeros(2), np.zeros(2))]
    step([p], [np.array([0.0, 1.0])], states, {"lr": 0.01, "t": 1})
    assert np.isnan(p).tolist() == [True, False]


def test_yogi_grows_at_least_as_fast_and_its_change_is_bounded():
    for s, g in itertools.product((0.0, 0.5, 3.0), (0.1, 1.0, 4.0)):
        adam, yogi = (rule(1.0, g, 0.0, s, 1, 0.1)[2] for rule in (spec.adam, spec.yogi))
        assert abs(yogi - s) <= g * g
        assert yogi >= adam or g * g <= s


def test_a_steady_gradient_moves_by_the_learning_rate_and_noise_by_less():
    rng = np.random.default_rng(0)
    for grads, least, most in ((np.full(500, 30.0), 0.99, 1.01), (rng.normal(size=500), 0.05, 0.5)):
        path = oracle.trajectory("adam", np.zeros(1), grads[:, None], 0.01)[0].ravel()
        assert least < np.abs(np.diff(path)).mean() / 0.01 < most


def shown(pattern):
    """What a cell of the chapter gives for the one group of a pattern."""
    [found] = re.findall(pattern, "\n".join(c.source for c in CELLS["adam"] if c.kind == "code"), re.MULTILINE)
    return ast.literal_eval(found)


def test_useful_learning_rates_span_a_factor_of_ten():
    assert shown(r"^rates = (.*0\.0003.*)$") == [0.0003, 0.003, 0.03, 0.3]
    for rule in ("adam", "yogi"):
        final = {lr: d2l_adam.train("numpy", rule, lr=lr).losses[-1] for lr in (0.0003, 0.003, 0.03, 0.3)}
        assert abs(final[0.003] - final[0.03]) < 0.01
        assert min(final[0.0003], final[0.3]) > final[0.003] + 0.1
        # "the libraries' default of 0.001 would stop half-way here"
        start = d2l_adam.train("numpy", rule, lr=1e-9).losses[-1]
        half = (start + final[0.03]) / 2
        assert d2l_adam.train("numpy", rule, lr=0.001).losses[-1] == pytest.approx(half, abs=0.05)


def test_the_noise_floor_is_the_root_of_half_the_learning_rate():
    rules = namespace_of_the_chapter("from d2l_adam.spec import sqrt")
    rng = np.random.default_rng(0)
    for lr in (0.003, 0.03):
        x, squares = np.zeros(2000), []
        step = protocol.load("numpy").step(rules["adam_rule"])
        states, hyperparams = [(np.zeros(2000), np.zeros(2000))], {"lr": lr, "t": 1}
        for _ in range(int(10 / lr)):
            step([x], [x + rng.normal(size=2000)], states, hyperparams)
            squares.append(np.mean(x**2))
        assert math.sqrt(np.mean(squares[len(squares) // 2 :])) == pytest.approx(math.sqrt(lr / 2), rel=0.2)


def test_a_falling_rate_arrives_early_and_stays_close():
    rule = namespace_of_the_chapter("from d2l_adam.spec import sqrt")["adam_rule"]
    names = {"adam_rule": rule, "sqrt": math.sqrt}
    [cell] = [c.source for c in CELLS["adam"] if c.source.startswith("from random")]
    exec(cell[: cell.index("rates = ")], names)  # the cell's own measurement, without its plot
    large, small, falling = (
        np.array(names["distances"](rate, start=5.0))
        for rate in (lambda t: 0.1, lambda t: 0.001, lambda t: 0.1 / math.sqrt(t))
    )
    near = [int(np.argmax(blocks < 0.1)) for blocks in (small, falling)]
    assert near[1] < near[0] / 2  # well before the small rate
    assert large[2:].min() > 0.1  # the large rate is there at once, and stays far off
    assert falling[20:].mean() < 1.2 * small[20:].mean() < large[20:].mean() / 3


def exercise_4(rule, num_steps=30000):
    x, v, s, path, effective = -1.0, 0.0, 0.0, [], []
    for t in range(1, num_steps + 1):
        g = STEEP * x / math.sqrt(1 + x * x) if t % PERIOD == 1 else -1.0
        x, v, s = oracle.step(rule, x, g, v, s, t, 0.1, beta2=0.99)
        path.append(float(x))
        effective.append(0.1 / (math.sqrt(s / (1 - 0.99**t)) + oracle.EPS[rule]))
    return path, effective


def test_adam_diverges_and_yogi_converges():
    best = NUMBERS["0.889"]()
    adam, effective = exercise_4("adam")
    yogi, steady = exercise_4("yogi")
    assert adam[-1] == pytest.approx(50.56, abs=0.01)
    ends = adam[PERIOD - 1 :: PERIOD]
    assert ends == sorted(ends)  # farther out at each end
    assert ends[-1] - ends[-11] == pytest.approx(ends[-11] - ends[-21], rel=0.02)  # without end
    assert yogi[-1] == pytest.approx(best, abs=1e-4)
    window = slice(28500, 30000)
    assert 4 < max(effective[window]) / min(effective[window]) < 5  # "more than fourfold"
    assert max(steady[window]) / min(steady[window]) < 1.1  # "hardly moves"
    left, right = adam[28799] - adam[28800], adam[29099] - adam[28800]
    assert 0 < left < right  # the small gradients push farther than the large one pulled
    assert STEEP * 1.5 / math.sqrt(1 + 1.5**2) > PERIOD - 1  # right of the minimum the steep slope outweighs
    assert max(abs(x - best) for x in yogi[window]) > 0.01  # "within one, Yogi swings as well"


def test_yogi_is_no_universal_cure():
    def end(rule, C):
        x, v, s = 0.0, 0.0, 0.0
        for t in range(1, 30001):
            g = C if t % 3 == 1 else -1.0
            x, v, s = oracle.step(rule, x, g, v, s, t, 0.5 / math.sqrt(t), beta1=0.0, beta2=1 / (1 + C * C))
            x = min(max(float(x), -1.0), 1.0)
        return x

    expected = {2.1: 1, 2.4: 1, 2.5: -1, 3.0: -1, 5.0: -1}
    assert shown(r"^for C in (\(.*\)):$") == tuple(expected)
    for C, yogi in expected.items():
        assert C - 1 - 1 > 0  # the gradients' sum: the best point is -1
        assert end("adam", C) == pytest.approx(1, abs=0.02)
        assert end("yogi", C) == pytest.approx(yogi, abs=0.02)


def test_the_recursion_needs_no_correction_and_no_initial_state():
    rule = namespace_of_the_chapter("from d2l_adam.spec import sqrt", "def recursive_rule")["recursive_rule"]
    grads = np.random.default_rng(0).normal(size=1000)
    expected = oracle.trajectory("adam", np.ones(1), grads[:, None], 0.01)[0].ravel()
    for start in (0.0, 5.0):
        p, v, s = 1.0, start, start
        for t, (g, x) in enumerate(zip(grads, expected, strict=True), start=1):
            p, v, s = rule(p, g, v, s, t, 0.01)
            assert abs(p - x) < 1e-13


# ---- the table of built-in optimizers -------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_the_defaults_of_the_table_are_the_libraries(name):
    lines = re.findall(r"^\|.*\|$", TEXTS[name], re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines][2:]
    libraries = [re.search("PyTorch|Keras|MXNet|optax|TensorFlow", row[0])[0] for row in rows]
    assert libraries == ["PyTorch", "Keras", "MXNet", "optax", "TensorFlow"]
    adam, keras, gluon = torch.optim.Adam([torch.zeros(1)]).defaults, tf.keras.optimizers.Adam(), mxnet.optimizer.Adam()
    expected = [(adam["lr"], adam["eps"]), (float(keras.learning_rate), keras.epsilon), (gluon.lr, gluon.epsilon)]
    for row, (lr, eps) in zip(rows, expected, strict=False):
        assert (float(row[2]), float(row[3])) == (pytest.approx(lr), pytest.approx(eps))
    assert ["eps_hat" in row[1] for row in rows] == [False, True, True, False, True]


GRADS = np.random.default_rng(0).normal(size=(1000, 4)) * [1, 1e-4, 30, 1e-3]


def built_in(framework, grads, eps):
    """Positions of a framework's Adam from 0, `eps(t)` set anew at each step."""
    path = []
    if framework == "pytorch":
        p = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([p], lr=0.01)
        for t, g in enumerate(grads, start=1):
            optimizer.param_groups[0]["eps"], p.grad = eps(t), torch.from_numpy(g)
            optimizer.step()
            path.append(p.detach().numpy().copy())
    elif framework == "tensorflow":
        p, optimizer = tf.Variable(np.zeros(4)), tf.keras.optimizers.Adam(0.01)
        optimizer.build([p])
        for t, g in enumerate(grads, start=1):
            optimizer.epsilon = eps(t)
            optimizer.apply([tf.constant(g)], [p])
            path.append(p.numpy())
    else:
        p, optimizer = mxnet.np.zeros(4, dtype="float64"), mxnet.optimizer.Adam(learning_rate=0.01)
        update = mxnet.optimizer.get_updater(optimizer)
        for t, g in enumerate(grads, start=1):
            optimizer.epsilon = eps(t)
            update(0, mxnet.np.array(g, dtype="float64"), p)
            path.append(p.asnumpy())
    return np.array(path)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_built_in_adam_agrees_when_the_table_says_so(framework):
    expected = oracle.trajectory("adam", np.zeros(4), GRADS, 0.01)[0]
    plain = built_in(framework, GRADS, lambda t: 1e-6)
    hat = built_in(framework, GRADS, lambda t: 1e-6 * math.sqrt(1 - 0.999**t))
    right, other = (plain, hat) if framework == "pytorch" else (hat, plain)
    # Keras and MXNet hold the betas in single precision.
    assert np.abs(right - expected).max() < (1e-14 if framework == "pytorch" else 2e-5)
    assert np.abs(other - expected).max() > 1e-4


PEERS = Path(__file__).parents[1] / ".venv" / "peers"
PEERS_SCRIPT = """
import sys
sys.path.append(sys.argv[1])
import numpy, torch, jax, optax, pytorch_optimizer, torch_optimizer
jax.config.update("jax_enable_x64", True)
grads, init = numpy.load(sys.argv[2]), float(sys.argv[3])

def by_torch(yogi):
    p = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer, path = yogi([p], lr=0.01, initial_accumulator=init), []
    for g in grads:
        p.grad = torch.from_numpy(g)
        optimizer.step()
        path.append(p.detach().numpy().copy())
    return path

def by_optax():
    yogi = optax.chain(optax.scale_by_yogi(initial_accumulator_value=init), optax.scale(-0.01))
    p, path = jax.numpy.zeros(4), []
    state = yogi.init(p)
    for g in grads:
        step, state = yogi.update(jax.numpy.asarray(g), state, p)
        p = optax.apply_updates(p, step)
        path.append(numpy.asarray(p))
    return path

numpy.save(sys.argv[4], [by_torch(torch_optimizer.Yogi), by_torch(pytorch_optimizer.Yogi), by_optax()])
import inspect
for yogi in (torch_optimizer.Yogi, pytorch_optimizer.Yogi):
    names = inspect.signature(yogi).parameters
    print(*(names[name].default for name in ("lr", "eps", "initial_accumulator")))
print(inspect.signature(optax.yogi).parameters["learning_rate"].default is inspect.Parameter.empty)
names = inspect.signature(optax.scale_by_yogi).parameters
print(*(names[name].default for name in ("eps", "initial_accumulator_value")))
"""


def test_other_libraries_yogi_agrees_from_zero(tmp_path):
    assert PEERS.is_dir(), "the other libraries are not installed; run: make setup-tests"
    np.save(tmp_path / "grads.npy", GRADS[:200])
    expected = oracle.trajectory("yogi", np.zeros(4), GRADS[:200], 0.01)[0]
    for init, agree in (("0.0", True), ("1e-6", False)):
        run = subprocess.run(
            [sys.executable, "-c", PEERS_SCRIPT, PEERS, tmp_path / "grads.npy", init, tmp_path / "paths.npy"],
            capture_output=True,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            check=True,
        )
        for path in np.load(tmp_path / "paths.npy"):
            assert (np.abs(path - expected).max() < 1e-14) == agree
    assert run.stdout.split() == [*["0.01", "0.001", "1e-06"] * 2, "True", "0.001", "1e-06"]


# Its package asks for a TensorFlow of 2023, its file with Yogi for the optimizer of Keras 2 only.
ADDONS_SCRIPT = """
import importlib.util, inspect, pathlib, sys, types, typing
sys.path.append(sys.argv[1])
import numpy
import tensorflow as tf

for name, content in (
    ("tensorflow_addons", {}),
    ("tensorflow_addons.utils", {}),
    ("tensorflow_addons.utils.types", {"FloatTensorLike": typing.Any}),
    ("tensorflow_addons.optimizers", {"KerasLegacyOptimizer": tf.keras.optimizers.legacy.Optimizer}),
):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content, __path__=[])
file = pathlib.Path(sys.argv[1], "tensorflow_addons", "optimizers", "yogi.py")
spec = importlib.util.spec_from_file_location("yogi", file)
yogi = importlib.util.module_from_spec(spec)
spec.loader.exec_module(yogi)
paths = []
for init in (0.0, 1e-6):
    for power in (0.5, 0.0):
        p, optimizer, path = tf.Variable(numpy.zeros(4)), yogi.Yogi(0.01, initial_accumulator_value=init), []
        for t, g in enumerate(numpy.load(sys.argv[2]), start=1):
            optimizer._hyper["epsilon"] = 1e-3 * (1 - 0.999**t) ** power
            optimizer.apply_gradients([(tf.constant(g), p)])
            path.append(p.numpy())
        paths.append(path)
numpy.save(sys.argv[3], paths)
names = inspect.signature(yogi.Yogi).parameters
print(*(names[name].default for name in ("learning_rate", "epsilon", "initial_accumulator_value")))
optimizer._create_all_weights([q := tf.Variable(1.0)])
print(optimizer.get_slot(q, "m").numpy())
"""


@pytest.mark.skipif(
    sys.version_info >= (3, 12) or (sys.platform != "darwin" and platform.machine() != "x86_64"),
    reason="the last TensorFlow Addons is for Python 3.11, on x86-64 or a Mac",
)
def test_the_yogi_of_tensorflow_addons_agrees_from_zero_with_eps_hat(tmp_path):
    np.save(tmp_path / "grads.npy", GRADS[:200])
    run = subprocess.run(
        [sys.executable, "-c", ADDONS_SCRIPT, PEERS, tmp_path / "grads.npy", tmp_path / "paths.npy"],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_USE_LEGACY_KERAS": "1"},
    )
    assert run.returncode == 0, run.stderr
    expected = oracle.trajectory("yogi", np.zeros(4), GRADS[:200], 0.01)[0]
    distances = [np.abs(path - expected).max() for path in np.load(tmp_path / "paths.npy")]
    assert [bool(distance < 1e-6) for distance in distances] == [True, False, False, False]
    assert run.stdout.split() == ["0.01", "0.001", "1e-06", "0.0"]


def test_no_framework_of_the_three_ships_yogi():
    for optimizers in (torch.optim, tf.keras.optimizers, mxnet.optimizer):
        assert hasattr(optimizers, "Adam")
        assert not hasattr(optimizers, "Yogi")
