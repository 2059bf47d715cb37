"""Rules rendered as source code: what the reader of each tab sees, in that framework's own words.

The shape is d2l's: a function of `params`, `states` and the dict `hyperparams`, which writes in
place. In JavaScript, it is a function of numbers. The maths is not repeated here: the statements are
those of the rule's own syntax tree, its words and names replaced.
"""

import ast
import inspect
import textwrap
from types import FunctionType
from typing import NamedTuple

from d2l_adam import spec
from d2l_adam.rule import WORDS, Rule

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
    #: The larger of an array and a number, where that is another word than for two arrays.
    at_least: str = ""
    #: Whether arrays cannot be written: the entries of the lists are replaced, and the new parameters returned.
    replaces: bool = False


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
        at_least="torch.clamp({}, min={})",
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
    "jax": Idiom("import jax.numpy as jnp", "jnp", "jnp.zeros({})", "g", "{} =", "{} +=", "{} -=", replaces=True),
    "numpy": _NUMPY,
}

#: The book's functions that make the states, each with a rule that has this many.
_INITS = {
    "init_adam_states": "adam",
    "init_momentum_states": "sgd_momentum",
    "init_adagrad_states": "adagrad",
    "init_rmsprop_states": "rmsprop",
    "init_adadelta_states": "adadelta",
}
NAMES = (*_INITS, *spec.RULES)
#: What `render` knows beside the tabs of the frameworks: "all", and the browser.
TABS = (*IDIOMS, "javascript", "all")


def render(tab: str, *names: str | FunctionType | Rule) -> str:
    """Return the source of the functions `names` in the words of a tab; without any, those of the chapter.

    Each is one of `NAMES`, or a rule of your own. The code needs nothing but the framework, imports included, and
    makes the same steps as the rule in that tab; a constant with a default has this (but `lr` is always one of the
    hyperparams), and the tab's checks it lacks. The tab "all" gives the rules themselves, as `adam_rule` and so on;
    "javascript" gives functions of numbers, `adam(p, g, v, s, t, {lr: 0.01})`, which return `[p, v, s]`.

    Raises ValueError for an unknown tab or name, and for a rule that is more than assignments to single names and a
    `return` of the parameter and the state, or whose source is not at hand; TypeError for what is no rule.

    >>> print(render("pytorch", "init_adam_states"))
    import torch
    <BLANKLINE>
    <BLANKLINE>
    def init_adam_states(feature_dim):
        shapes = (feature_dim, 1), (1,)
        return tuple((torch.zeros(shape), torch.zeros(shape)) for shape in shapes)
    <BLANKLINE>
    """
    if tab not in TABS:
        raise ValueError(f"unknown tab {tab!r}; known: {', '.join(TABS)}")
    known = NAMES if tab in IDIOMS else tuple(spec.RULES)
    for name in names:
        if isinstance(name, str) and name not in known:
            raise ValueError(f"unknown name {name!r} in tab {tab}; known: {', '.join(known)}")
    if tab == "all":
        rules = [Rule(name) for name in names or spec.SECTION]
        words = {word for rule in rules for word in rule.function.__code__.co_names} - {"abs"}
        parts = [f"from d2l_adam.spec import {', '.join(sorted(words))}"] if words else []
        parts += map(_rule, rules)
    elif tab == "javascript":
        functions = [_javascript(Rule(name)) for name in names or spec.SECTION]
        helpers = [line for word, line in _HELPERS.items() if any(f"{word}(" in text for text in functions)]
        parts = ["\n".join(helpers)] * bool(helpers) + functions
    else:
        idiom = IDIOMS[tab]
        parts = [idiom.imports]
        for name in names or ("init_adam_states", *spec.SECTION):
            parts.append(_init(idiom, name) if name in _INITS else _function(idiom, Rule(name)))
    return "\n\n\n".join(part.rstrip() for part in parts) + "\n"


def _rule(rule):
    """A rule as it stands in the spec, without its docstring."""
    function = tree(rule.function)
    lines = _source(rule.function).splitlines()
    if ast.get_docstring(function):
        del lines[function.body[0].lineno - 1 : function.body[0].end_lineno]
    return "\n".join(lines).replace(f"def {rule.name}(", f"def {rule.name}_rule(", 1)


def _init(idiom, name):
    """The function that makes the first states: of each parameter a bare array, or a tuple of several."""
    zeros = [idiom.zeros.format("shape")] * len(Rule(_INITS[name]).state)
    state = f"({', '.join(zeros)})" if len(zeros) > 1 else zeros[0]
    start, end = ("[", "]") if idiom.replaces else ("tuple(", ")")
    text = f"    return {start}{state} for shape in shapes{end}"
    if len(text) > WIDTH:
        text = f"    return {start}\n        {state}\n        for shape in shapes{end}"
    return f"def {name}(feature_dim):\n    shapes = (feature_dim, 1), (1,)\n{text}"


def _function(idiom, rule):
    """A rule as a function in d2l's calling convention."""
    function = tree(rule.function)
    *assignments, end = _body(function)
    result = f"({', '.join(('p', *rule.state))})" if rule.state else "p"
    if ast.unparse(end) != f"return {result}" or not all(map(_is_assignment, assignments)):
        raise ValueError(
            f"the rule {rule.name} cannot be rendered; write it as assignments such as `p = p - lr * g`, each of an "
            f"expression to one name, and `return {result.strip('()')}`"
        )
    used = {"params", "grads", "states", "hyperparams", "zip", "max", idiom.words}
    used |= {"i", "enumerate"} if idiom.replaces else set()
    if clash := used & {rule.name, *rule.function.__code__.co_varnames}:
        raise ValueError(f"the rule {rule.name} cannot be rendered; give {', '.join(clash)} another name in it")
    constants = _constants(rule, function)
    constants.pop("lr", None)  # one of the hyperparams in any case
    translate = _Translate(idiom, rule, constants)
    steps = [translate.statement(node) for node in assignments]
    state = f"({', '.join(rule.state)})" if len(rule.state) > 1 else "".join(rule.state)
    lists = {"p": "params", "g": "grads" if idiom.grad == "g" else "", state: "states"}
    lists = {place: name for place, name in lists.items() if place and name}
    arrays = ", ".join(lists.values())
    arguments = ", ".join(name for name in ("params", lists.get("g"), "states", "hyperparams") if name)
    loop = f"{', '.join(lists)} in {f'zip({arrays})' if len(lists) > 1 else arrays}"
    if idiom.replaces:
        loop = f"i, ({', '.join(lists)}) in enumerate(zip({arrays}))"
        steps.append(f"params[i], states[i] = p, {state}" if state else "params[i] = p")
    return (
        f"{idiom.before}def {rule.name}({arguments}):\n"
        + (f"    {', '.join(constants)} = {', '.join(constants.values())}\n" if constants else "")
        + f"    for {loop}:\n"
        + textwrap.indent("\n".join(steps), " " * 8)
        + f"\n{idiom.after}"
        + ("    hyperparams['t'] += 1\n" if rule.reads_t else "")
        + ("    return params" if idiom.replaces else "")
    )


#: The words that JavaScript has not, as in the spec: `Math.sign` has another sign of NaN.
_HELPERS = {
    "square": "const square = (x) => x * x;",
    "sign": "const sign = (x) => (x > 0) - (x < 0);",
}
_MATH = {"abs": "Math.abs", "maximum": "Math.max", "sqrt": "Math.sqrt"}
_ARITHMETIC = (
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UnaryOp, ast.UAdd, ast.USub),
    *(ast.Name, ast.Load, ast.Constant),
)
#: What is no name in a module or a script of JavaScript, where Python takes it for one.
_RESERVED = {
    "Infinity", "Math", "NaN", "arguments", "case", "catch", "const", "debugger", "default", "delete", "do", "enum",
    "eval", "export", "extends", "false", "function", "implements", "instanceof", "interface", "let", "new", "null",
    "package", "private", "protected", "public", "static", "super", "switch", "this", "throw", "true", "typeof",
    "undefined", "var", "void",
}  # fmt: skip


def _javascript(rule):
    """A rule as a function of numbers, its constants the fields of an object; what it returns is always an array."""
    function = tree(rule.function)
    if clash := sorted({rule.name, *rule.function.__code__.co_varnames} & {*_RESERVED, *WORDS}):
        raise ValueError(f"the rule {rule.name} cannot be rendered; give {', '.join(clash)} another name in it")
    arguments, constants = ["p", "g", *rule.state, "t"], _constants(rule, function)
    if rule.constants:
        fields = (f"{name} = {constants[name]}" if name in constants else name for name in rule.constants)
        arguments.append(f"{{ {', '.join(fields)} }}")
    known, lines, code = {"p", "g", "t", *rule.state, *rule.constants}, [], _ToJavaScript(rule)
    for node in _body(function):
        match node:
            case ast.Assign([ast.Name(name)], value):
                lines.append(f"  {'' if name in known else 'let '}{name} = {ast.unparse(code.visit(value))};")
                known.add(name)
            case ast.Return(ast.Tuple(values)) if len(values) == 1 + len(rule.state):
                lines.append(f"  return [{', '.join(ast.unparse(code.visit(value)) for value in values)}];")
            case ast.Return(ast.expr() as value) if not rule.state:
                lines.append(f"  return [{ast.unparse(code.visit(value))}];")
            case _:
                code.refuse()
    return "\n".join((f"function {rule.name}({', '.join(arguments)}) {{", *lines, "}"))


class _ToJavaScript(ast.NodeTransformer):
    """Put JavaScript's words for those of the spec; the operations are written alike, but for a sign before a power."""

    def __init__(self, rule):
        self.rule = rule

    def refuse(self):
        raise ValueError(
            f"the rule {self.rule.name} cannot be rendered; write it as assignments such as `p = p - lr * g`, each of "
            f"+ - * / ** and {', '.join(WORDS)} to one name, and `return {', '.join(('p', *self.rule.state))}`"
        )

    def generic_visit(self, node):
        if not isinstance(node, _ARITHMETIC):
            self.refuse()
        return super().generic_visit(node)

    def visit_Call(self, node):
        node.args = [self.visit(arg) for arg in node.args]
        if node.keywords:
            self.refuse()
        node.func = _expression(_MATH.get(node.func.id, node.func.id))
        return node

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.UAdd):
            return node.operand
        if isinstance(node.operand, ast.BinOp) and isinstance(node.operand.op, ast.Pow):
            return ast.BinOp(ast.Constant(-1), ast.Mult(), node.operand)  # -x ** 2 is an error there
        return node


def _body(function):
    return function.body[1:] if ast.get_docstring(function) else function.body


def _is_assignment(node):
    """Whether this is `name = expression`, and no mere second name of an array, which is written in place."""
    if not isinstance(node, ast.Assign) or len(node.targets) > 1 or not isinstance(node.targets[0], ast.Name):
        return False
    return not isinstance(node.value, ast.Name) and not isinstance(getattr(node.value, "op", None), ast.UAdd)


def _constants(rule, function):
    """The constants that have defaults, with these as they are written."""
    source, constants = _source(rule.function), {}
    for arg, value in zip(function.args.args[::-1], function.args.defaults[::-1], strict=False):
        default = rule.constants[arg.arg].default if arg.arg in rule.constants else None
        if default is not None:
            as_written = isinstance(value, ast.Constant) and arg.arg not in rule.defaults
            text = ast.get_source_segment(source, value) if as_written else repr(default)
            constants[arg.arg] = text
    return dict(reversed(constants.items()))


#: The words of plain numbers, as in `sqrt(1 - beta2**t)`: the frameworks' own are for arrays.
_OF_NUMBERS = {
    "sqrt": "({0}) ** 0.5",
    "square": "({0}) ** 2",
    "sign": "(({0}) > 0) - (({0}) < 0)",
    "maximum": "max({0}, {1})",
    "abs": "abs({0})",
}


class _Translate(ast.NodeTransformer):
    """Put a framework's words for those of the spec, and d2l's places for the names of the rule."""

    def __init__(self, idiom, rule, constants):
        self.idiom, self.rule = idiom, rule
        self.names = {name: f"hyperparams['{name}']" for name in rule.numbers if name not in constants}
        self.names |= {word: f"{idiom.words}.{word}" for word in WORDS if word != "abs"}
        self.names["g"] = idiom.grad
        self.numbers = {*rule.numbers}  # the names of plain numbers; all others are of arrays

    def statement(self, node):
        """One assignment of the rule: to the parameter or a state as a write in place, to a local name as it stands."""
        [target], value = node.targets, node.value
        if target.id in ("p", *self.rule.state):
            return self.write(target.id, value)
        is_number, text, name = self.is_number(value), ast.unparse(self.visit(value)), target.id
        if name in ("g", *self.rule.numbers):  # a changed one is a name of its own: the next parameter has the first
            while name in self.rule.function.__code__.co_varnames:
                name += "_"
            self.names[target.id] = name
        (self.numbers.add if is_number else self.numbers.discard)(target.id)
        return f"{name} = {text}"

    def write(self, place, value):
        write = self.idiom.write
        if isinstance(value, ast.BinOp) and ast.unparse(value.left) == place:
            if isinstance(value.op, ast.Sub):
                write, value = self.idiom.subtract, value.right
            elif isinstance(value.op, ast.Add):
                write, value = self.idiom.add, value.right
        head, value = write.format(place), self.visit(value)
        start, end = (head, ")") if head.endswith("(") else (f"{head} ", "")
        text = ast.unparse(value)
        if 8 + len(start + text + end) > WIDTH and isinstance(value, ast.BinOp):
            start, end = (start, end) if end else (f"{start}(", ")")
            value.left = ast.Name("_")
            right = ast.unparse(value).removeprefix("_ ")  # with the brackets that it needs
            text = f"{text.removesuffix(right).rstrip()}\n{' ' * len(start)}{right}"
        return f"{start}{text}{end}"

    def is_number(self, node):
        return {x.id for x in ast.walk(node) if isinstance(x, ast.Name)} <= {*self.numbers, *WORDS}

    def visit_Name(self, node):
        return _expression(self.names.get(node.id, node.id))

    def visit_Call(self, node):
        of_number = [self.is_number(arg) for arg in node.args]
        node.args = [self.visit(arg) for arg in node.args]
        args = [ast.unparse(arg) for arg in node.args]
        if all(of_number):
            return _expression(_OF_NUMBERS[node.func.id].format(*args))
        if any(of_number) and self.idiom.at_least:  # only `maximum` has two arguments
            return _expression(self.idiom.at_least.format(*(reversed(args) if of_number[0] else args)))
        node.func = self.visit(node.func)
        return node


def _expression(text):
    return ast.parse(text, mode="eval").body


def _source(function):
    return textwrap.dedent(inspect.getsource(function))


def tree(function):
    """The syntax tree of a rule's function. Raises ValueError where its source is not at hand."""
    try:
        node = ast.parse(_source(function)).body[0]
    except (OSError, SyntaxError):
        node = None
    if not isinstance(node, ast.FunctionDef):
        raise ValueError(f"the source of {function.__name__} is not at hand; define it by `def`, in a file or a cell")
    return node
