"""The spec rendered as source code: what the reader of each tab sees, in that framework's own words.

The shape is d2l's: a function of `params`, `states` and the dict `hyperparams`, which writes in
place. The maths is not repeated here: the statements are those of the rule's own syntax tree, its
words and names replaced.
"""

import ast
import inspect
import textwrap
from typing import NamedTuple

from d2l_adam import contract, spec

WIDTH = 78  # the book's columns


class Idiom(NamedTuple):
    """How one framework says it: `{}` stands for the place, the shape or the value."""

    imports: str
    words: str
    zeros: str
    grad: str
    write: str
    add: str
    subtract: str
    before: str = ""
    after: str = ""


_NUMPY = Idiom("import numpy as np", "np", "np.zeros({})", "g", "{}[:] =", "{}[:] +=", "{}[:] -=")
IDIOMS = {
    "mxnet": _NUMPY._replace(imports="from mxnet import np, npx\n\nnpx.set_np()", grad="p.grad"),
    "pytorch": _NUMPY._replace(
        imports="import torch",
        words="torch",
        zeros="torch.zeros({})",
        grad="p.grad",
        before="@torch.no_grad()\n",
        after="        p.grad.zero_()\n",
    ),
    "tensorflow": Idiom(
        "import tensorflow as tf",
        "tf",
        "tf.Variable(tf.zeros({}))",
        "g",
        "{}.assign(",
        "{}.assign_add(",
        "{}.assign_sub(",
    ),
    "numpy": _NUMPY,
}

NAMES = ("init_adam_states", *spec.RULES)


def render(tab: str, *names: str) -> str:
    """Return the source of the functions `names` (all, if none is given) in the words of a tab.

    It needs nothing but the framework, imports included, and makes the same steps as the functions
    of that name in the tab, at the rule's own constants; the tab's checks it lacks. The tab "all"
    gives the rules themselves, as `adam_rule` and `yogi_rule`. Raises ValueError for an unknown tab
    or name, and for a rule that is more than assignments to single names and `return p, v, s`.

    >>> print(render("pytorch", "init_adam_states"))
    import torch
    <BLANKLINE>
    <BLANKLINE>
    def init_adam_states(feature_dim):
        shapes = (feature_dim, 1), (1,)
        return tuple((torch.zeros(shape), torch.zeros(shape)) for shape in shapes)
    <BLANKLINE>
    """
    if tab not in (*IDIOMS, "all"):
        raise ValueError(f"unknown tab {tab!r}; known: {', '.join(IDIOMS)}, all")
    known = tuple(spec.RULES) if tab == "all" else NAMES
    for name in names:
        if name not in known:
            raise ValueError(f"unknown name {name!r} in tab {tab}; known: {', '.join(known)}")
    names = names or known
    if tab == "all":
        words = sorted({word for name in names for word in _words(spec.RULES[name])})
        parts = [f"from d2l_adam.spec import {', '.join(words)}"] if words else []
        parts += [_rule(name) for name in names]
    else:
        parts = [IDIOMS[tab].imports, *(_function(IDIOMS[tab], name) for name in names)]
    return "\n\n\n".join(part.rstrip() for part in parts) + "\n"


def _rule(name):
    """A rule as it stands in the spec, without its docstring."""
    lines = _source(spec.RULES[name]).splitlines()
    function = tree(spec.RULES[name])
    if ast.get_docstring(function):
        del lines[function.body[0].lineno - 1 : function.body[0].end_lineno]
    return "\n".join(lines).replace(f"def {name}(", f"def {name}_rule(", 1)


def _function(idiom, name):
    if name == "init_adam_states":
        zeros = idiom.zeros.format("shape")
        pair = f"        ({zeros}, {zeros})"
        text = f"    return tuple({pair.strip()} for shape in shapes)"
        if len(text) > WIDTH:
            text = f"    return tuple(\n{pair}\n        for shape in shapes)"
        return f"def init_adam_states(feature_dim):\n    shapes = (feature_dim, 1), (1,)\n{text}"
    source = _source(spec.RULES[name])
    function = tree(spec.RULES[name])
    args, defaults = function.args.args, function.args.defaults
    constants = {
        arg.arg: ast.get_source_segment(source, value) or ""
        for arg, value in zip(args[len(args) - len(defaults) :], defaults, strict=True)
    }
    given = [arg.arg for arg in args[4:] if arg.arg not in constants]
    grads = "grads, " if idiom.grad == "g" else ""
    loop = "p, g, (v, s) in zip(params, grads, states)" if grads else "p, (v, s) in zip(params, states)"
    translate = _Translate(idiom, given)
    *assignments, end = function.body[1:] if ast.get_docstring(function) else function.body
    if ast.unparse(end) != "return (p, v, s)" or not all(
        isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and not isinstance(node.value, ast.Name)
        for node in assignments
    ):
        raise ValueError(
            f"the rule {name} cannot be rendered; write it as assignments such as `p = p - lr * g`, each of an "
            "expression to one name, and `return p, v, s`"
        )
    steps = [_statement(idiom, node, translate) for node in assignments]
    return (
        f"{idiom.before}def {name}(params, {grads}states, hyperparams):\n"
        + (f"    {', '.join(constants)} = {', '.join(constants.values())}\n" if constants else "")
        + f"    for {loop}:\n"
        + textwrap.indent("\n".join(steps), " " * 8)
        + f"\n{idiom.after}"
        "    hyperparams['t'] += 1"
    )


class _Translate(ast.NodeTransformer):
    """Put a framework's words for those of the spec, and d2l's places for the names of the rule."""

    def __init__(self, idiom, given):
        self.names = {"g": idiom.grad} | {name: f"hyperparams['{name}']" for name in given}
        self.names |= {word: f"{idiom.words}.{word}" for word in contract.WORDS}

    def visit_Name(self, node):
        return ast.parse(self.names[node.id], mode="eval").body if node.id in self.names else node


def _statement(idiom, node, translate):
    """One assignment of the rule: of a local name as it stands, of `p`, `v` or `s` as a write in place."""
    [target], value = node.targets, node.value
    if target.id not in ("p", "v", "s"):
        return ast.unparse(translate.visit(node))
    write = idiom.write
    if isinstance(value, ast.BinOp) and ast.unparse(value.left) == target.id:
        if isinstance(value.op, ast.Sub):
            write, value = idiom.subtract, value.right
        elif isinstance(value.op, ast.Add):
            write, value = idiom.add, value.right
    head, value = write.format(target.id), translate.visit(value)
    start, end = (head, ")") if head.endswith("(") else (f"{head} ", "")
    text = ast.unparse(value)
    if 8 + len(start + text + end) > WIDTH and isinstance(value, ast.BinOp):
        start, end = (start, end) if end else (f"{start}(", ")")
        value.left = ast.Name("_")
        right = ast.unparse(value).removeprefix("_ ")  # with the brackets that it needs
        text = f"{text.removesuffix(right).rstrip()}\n{' ' * len(start)}{right}"
    return f"{start}{text}{end}"


def _source(rule):
    return textwrap.dedent(inspect.getsource(rule))


def tree(rule):
    """The syntax tree of a rule's function."""
    return ast.parse(_source(rule)).body[0]


def _words(rule):
    return {node.id for node in ast.walk(tree(rule)) if isinstance(node, ast.Name) and node.id in contract.WORDS}
