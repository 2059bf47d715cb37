"""State from and to the frameworks' own optimizers: what they have begun goes on elsewhere, and back."""

import importlib
import json

import libraries
import numpy as np
import pytest
from frameworks import NATIVE, Native
from test_checkpoint import of_native
from test_dialects import SINGLE, problem

from d2l_adam import dialects, protocol

LIBRARY = {"pytorch": "torch.optim.", "tensorflow": "keras.optimizers.", "mxnet": "mxnet.optimizer."}
OWNERS = tuple(tab for tab in NATIVE if tab in LIBRARY)
SCHEDULED = ("torch.optim.NAdam", "keras.optimizers.Nadam")  # their product of momenta is one number
OWN = [(tab, x) for tab in OWNERS for x in dialects.TABLE if x.startswith(LIBRARY[tab]) and x not in SCHEDULED]


def own(tab, name, start, **options):
    """The framework's own optimizer, on parameters of its own."""
    protocol.load(tab)  # before MXNet itself
    dialect = dialects.TABLE[name]
    module, _, cls = dialect.path.rpartition(".")
    options = {dialect.constants[x]: value for x, value in libraries.given(dialect).items()} | dialect.options | options
    make = getattr(importlib.import_module(module), cls)
    return Native(tab, None, [start], "float32" if name in SINGLE else "float64", make=make, **options)


def like(tab, name, start):
    dtype = "float32" if name in SINGLE else "float64"
    return Native(tab, name, [start], dtype, constants=libraries.given(dialects.TABLE[name]), like=True)


def value(native):
    p = native.params[0]
    return np.asarray(native.module.TAB.asnumpy(p.data() if native.tab == "mxnet" else p)).astype("float64")


@pytest.mark.parametrize(("tab", "name"), OWN)
def test_the_framework_s_own_goes_on_elsewhere_and_back(tab, name, tmp_path):
    start, grads = problem()
    whole = own(tab, name, start)
    begun, back = own(tab, name, start), own(tab, name, start + 1)
    other = OWNERS[(OWNERS.index(tab) + 1) % len(OWNERS)]
    between = like(other, name, start + 2)
    for g in grads[:15]:
        whole.step([g])
        begun.step([g])
    begun.module.save(tmp_path / "run", *of_native(begun))
    between.module.load(tmp_path / "run", *of_native(between))
    for g in grads[15:30]:
        whole.step([g])
        between.step([g])
    exact = 1e-12 if tab == "pytorch" else 2e-6  # the rounding of `test_dialects`
    np.testing.assert_allclose(value(between), value(whole), rtol=0, atol=exact)
    between.module.save(tmp_path / "run", *of_native(between))
    back.module.load(tmp_path / "run", *of_native(back))
    for g in grads[30:45]:
        whole.step([g])
        back.step([g])
    np.testing.assert_allclose(value(back), value(whole), rtol=0, atol=exact)


@pytest.mark.parametrize("tab", OWNERS)
def test_the_file_says_the_dialect_and_another_is_refused_unless_asked_for(tab, tmp_path):
    first, second = "keras.optimizers.Adam", "torch.optim.Adam"
    begun, other = like(tab, first, np.ones(3)), like(tab, second, np.zeros(3))
    for each in (begun, other):
        each.step([np.ones(3)])
    begun.module.save(tmp_path / "run", *of_native(begun))
    content = (tmp_path / "run").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["d2l_adam"]
    assert json.loads(header)["dialect"] == first
    before = str(other.values())
    words = r"is of keras.optimizers.Adam \(adam_hat\), here is torch.optim.Adam \(adam\); continue with adam_hat, in t"
    with pytest.raises(ValueError, match=words):
        other.module.load(tmp_path / "run", *of_native(other))
    assert str(other.values()) == before
    other.module.load(tmp_path / "run", *of_native(other), convert=True)
    assert str(other.values()) == str(begun.values())
    same_rule = like(tab, "mxnet.optimizer.Adam", np.zeros(3))
    with pytest.raises(ValueError, match=r"was made with eps 1e-07, here it is 1e-08; .* or give convert=True"):
        same_rule.module.load(tmp_path / "run", *of_native(same_rule))
    fewer = like(tab, "torch.optim.Adam(amsgrad=True)", np.zeros(3))
    with pytest.raises(ValueError, match=r"holds the state \['v', 's'\], here is \['v', 's', 'x'\]"):
        fewer.module.load(tmp_path / "run", *of_native(fewer), convert=True)


def test_states_of_one_shape_and_another_meaning_are_not_converted(tmp_path):
    begun, other = (like("pytorch", f"{x}.SGD(momentum)", np.ones(3)) for x in ("torch.optim", "keras.optimizers"))
    begun.step([np.ones(3)])
    begun.module.save(tmp_path / "run", *of_native(begun))
    with pytest.raises(ValueError, match=r"holds the state \['v'\], here is \['velocity'\]"):
        other.module.load(tmp_path / "run", *of_native(other), convert=True)


def test_a_converted_function_keeps_its_hyperparams(tmp_path):
    begun, tab = like("pytorch", "keras.optimizers.Adam", np.ones(3)), protocol.load("numpy")
    begun.step([np.ones(3)])
    begun.module.save(tmp_path / "run", *of_native(begun))
    params, hyperparams = [np.zeros(3)], {"lr": 0.1, "t": 1}
    states = tab.init_states("adam", params)
    with pytest.raises(ValueError, match=r"is of keras\.optimizers\.Adam"):
        tab.load(tmp_path / "run", params, states, hyperparams, rule="adam")
    tab.load(tmp_path / "run", params, states, hyperparams, rule="adam", convert=True)
    assert hyperparams == {"lr": 0.1, "t": 2}
    assert states[0][0].tolist() == begun.values()[0][1].tolist()


REFUSED = [
    ("pytorch", "torch.optim.SGD(momentum)", {"nesterov": True}, "no place for nesterov=True of SGD; make it without"),
    ("pytorch", "torch.optim.RMSprop", {"centered": True}, "no place for centered=True of RMSprop"),
    ("pytorch", "torch.optim.RMSprop", {"momentum": 0.5}, "no place for momentum=0.5 of RMSprop"),
    ("pytorch", "torch.optim.NAdam", {}, "no place for its state of NAdam"),
    ("tensorflow", "keras.optimizers.SGD(momentum)", {"nesterov": True}, "no place for nesterov=True of SGD"),
    ("tensorflow", "keras.optimizers.RMSprop", {"centered": True}, "no place for centered=True of RMSprop"),
    ("mxnet", "mxnet.optimizer.RMSProp", {"centered": True}, "no place for centered=True of RMSProp"),
]


@pytest.mark.parametrize(("tab", "name", "options", "words"), [x for x in REFUSED if x[0] in OWNERS])
def test_what_is_another_rule_is_refused(tab, name, options, words, tmp_path):
    native = own(tab, name, np.ones(3), **options)
    with pytest.raises(ValueError, match=f"{tab}: the file has {words}"):
        native.module.save(tmp_path / "run", *of_native(native))
    assert not [*tmp_path.iterdir()]


@pytest.mark.needs("pytorch")
def test_what_is_in_no_table_is_refused_with_what_is(tmp_path):
    import torch

    p = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(TypeError, match=r"ASGD'>; give an Adam or a Yogi of d2l_adam.torch, or torch.optim.Adadelta, "):
        protocol.load("pytorch").save(tmp_path / "run", [p], torch.optim.ASGD([p]))


WORDS, STEPS = 40, 20
RATE = 1e-3  # Keras has 0.999 in float32 for 1 - 0.999**t only: its steps, and what they gain, are off by 6e-6 of it


def tokens():
    """Batches of four sentences of six words, none twice: Keras' Adam squares before it sums rows."""
    rng = np.random.default_rng(0)
    return [rng.permutation(WORDS)[:24].reshape(4, 6).astype("int32") for _ in range(2 * STEPS)]


TARGETS = np.array([[1.0], [-1.0], [0.5], [2.0]], "float32")
#: The axes of Keras' weights, and of PyTorch's.
TO_TORCH = {"convolution": (2, 1, 0), "dense": (1, 0)}


class KerasNet:
    def __init__(self, make):
        import keras

        from d2l_adam import tensorflow as tab

        keras.utils.set_random_seed(1)
        layers = keras.layers
        self.net = keras.Sequential(
            [
                keras.Input((6,), dtype="int32"),
                layers.Embedding(WORDS, 8),
                layers.Conv1D(5, 3, activation="tanh"),
                layers.GlobalAveragePooling1D(),
                layers.Dense(1),
            ]
        )
        names = ("embedding", "convolution", "convolution bias", "dense", "dense bias")
        self.tab, self.params = tab, dict(zip(names, self.net.trainable_variables, strict=True))
        self.optimizer = make(tab)
        self.optimizer.build(self.net.trainable_variables)

    def train(self, batches):
        tf, losses = self.tab.tf, []
        for x in batches:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.net(x) - TARGETS) ** 2)
            self.optimizer.apply(tape.gradient(loss, self.net.trainable_variables), self.net.trainable_variables)
            losses.append(float(loss))
        return losses


class TorchNet:
    def __init__(self, make):
        import torch

        from d2l_adam import torch as tab

        torch.manual_seed(2)
        self.embedding, self.convolution = torch.nn.Embedding(WORDS, 8), torch.nn.Conv1d(8, 5, 3)
        self.dense = torch.nn.Linear(5, 1)
        self.params = {"embedding": self.embedding.weight, "convolution": self.convolution.weight}
        self.params |= {"convolution bias": self.convolution.bias}
        self.params |= {"dense": self.dense.weight, "dense bias": self.dense.bias}
        self.tab, self.optimizer = tab, make(tab, [*self.params.values()])

    def train(self, batches):
        import torch

        losses = []
        for x in batches:
            hidden = torch.tanh(self.convolution(self.embedding(torch.tensor(x)).mT)).mean(-1)
            loss = ((self.dense(hidden) - torch.tensor(TARGETS)) ** 2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


@pytest.mark.needs("pytorch", "tensorflow")
@pytest.mark.parametrize("name", ["keras.optimizers.Adam", "torch.optim.Adam"])
def test_a_network_that_keras_has_begun_goes_on_in_torch_and_the_other_way_round(name, tmp_path):
    """With each framework's own optimizer at home, and `like` that abroad."""
    import keras
    import torch

    if name.startswith("keras"):
        in_keras = lambda tab: keras.optimizers.Adam(RATE)  # noqa: E731
        in_torch = lambda tab, params: tab.like(name)(params, lr=RATE)  # noqa: E731
    else:
        in_keras = lambda tab: tab.like(name)(RATE)  # noqa: E731
        in_torch = lambda tab, params: torch.optim.Adam(params, lr=RATE)  # noqa: E731
    batches, file = tokens(), tmp_path / "run"
    first, second = KerasNet(in_keras), TorchNet(in_torch)
    first.tab.save(file, first.params, first.optimizer)
    second.tab.load(file, second.params, second.optimizer, axes=TO_TORCH)
    whole = KerasNet(in_keras).train(batches)
    assert first.train(batches[:STEPS]) == whole[:STEPS]
    np.testing.assert_allclose(second.train(batches[:STEPS]), whole[:STEPS], rtol=0, atol=1e-6)
    to_keras = {key: tuple(np.argsort(axes).tolist()) for key, axes in TO_TORCH.items()}
    there, back = TorchNet(in_torch), KerasNet(in_keras)
    first.tab.save(file, first.params, first.optimizer)
    there.tab.load(file, there.params, there.optimizer, axes=TO_TORCH)
    second.tab.save(file, second.params, second.optimizer)
    back.tab.load(file, back.params, back.optimizer, axes=to_keras)
    for other in (there, back):
        np.testing.assert_allclose(other.train(batches[STEPS:]), whole[STEPS:], rtol=0, atol=1e-6)
