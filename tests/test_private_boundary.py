"""Private parts of other packages are named in two files; everything else calls these.

Read from the syntax tree, string literals included: ``getattr(model, "_losses")`` hides from a
linter what ``model._losses`` shows.
"""

import ast
import re

import pytest

from tests.test_imports import MODULES

NAMES_PRIVATE_PARTS = {
    "tb_firstloss.capture.keras.library",
    "tb_firstloss.capture.window.tensorflow_private",
}
DOCUMENTED = {"sys._getframe"}  # by Python, which has no other way to a caller's frame
NAMED_TUPLE = {"_asdict", "_fields", "_replace"}  # documented, underscore and all
PRIVATE_NAME = re.compile(r"_[A-Za-z]\w*(?<!_)")  # _repr_html_ and its like are documented
PRIVATE_MODULE = re.compile(r"(tf_)?keras\.src\b|tensorflow\.python\b")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def is_private(name):
    return PRIVATE_NAME.fullmatch(name) is not None


def members(tree):
    """Private names of what a module's classes define: methods, class attributes, self's."""
    stored = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    stored = {n.attr for n in stored if isinstance(n.ctx, ast.Store) and is_self(n.value)}
    return {name for name in stored | {name for _, name in class_body(tree)} if is_private(name)}


def is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def used_names(tree):
    """Names that a module's code reads, of variables and attributes."""
    read = [node for node in ast.walk(tree) if isinstance(getattr(node, "ctx", None), ast.Load)]
    attributes = {node.attr for node in read if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in read if isinstance(node, ast.Name)}


def class_body(tree):
    """Yields node and name of everything that is defined directly in a class."""
    for scope in ast.walk(tree):
        for node in scope.body if isinstance(scope, ast.ClassDef) else ():
            if isinstance(node, FUNCTIONS):
                yield node, node.name
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                if isinstance(target, ast.Name):
                    yield node, target.id


def prose(tree):
    """Strings that name nothing: docstrings, an f-string's later parts, type variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield from node.values[1:]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("TypeVar", "ParamSpec"):
            yield node.args[0]


def names_at(node):
    """Private names and modules that one node of a syntax tree names, of whomever they are."""
    if isinstance(node, ast.Attribute):
        is_documented = node.attr in NAMED_TUPLE or ast.unparse(node) in DOCUMENTED
        return [node.attr] if is_private(node.attr) and not is_documented else []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        is_name = is_private(node.value) and node.value not in NAMED_TUPLE
        is_name = is_name or PRIVATE_MODULE.match(node.value)
        return [node.value] if is_name else []
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if PRIVATE_MODULE.match(alias.name)]
    if isinstance(node, ast.ImportFrom) and not node.module.startswith("tb_firstloss"):
        is_module = PRIVATE_MODULE.match(node.module)
        return [a.name for a in node.names if is_module or is_private(a.name)]
    return []


def foreign_private_parts(source, *, ours=frozenset(), used=frozenset()):
    """Returns line and name of each private part of another package that a module names.

    What a class defines and nobody reads is there for another package, which looks for it.

    Args:
        source: The module's source.
        ours: `members` of the package's other modules.
        used: `used_names` of the package's other modules.
    """
    tree = ast.parse(source)
    own = members(tree)
    unused = own - used - used_names(tree)
    found = {(node.lineno, name) for node, name in class_body(tree) if name in unused}
    no_names = set(prose(tree))
    for node in ast.walk(tree):
        known = own | ours if isinstance(node, ast.Attribute) and is_self(node.value) else own
        if node not in no_names:
            found |= {(node.lineno, name) for name in names_at(node) if name not in known}
    return sorted(found)


def test_only_two_files_name_private_parts():
    sources = {name: path.read_text() for name, path in MODULES.items()}
    trees = [ast.parse(source) for source in sources.values()]
    package = {
        "ours": frozenset().union(*map(members, trees)),
        "used": frozenset().union(*map(used_names, trees)),
    }
    misplaced = [
        f"{MODULES[name]}:{line}: {part}"
        for name, source in sources.items()
        if name not in NAMES_PRIVATE_PARTS
        for line, part in foreign_private_parts(source, **package)
    ]
    assert not misplaced, "move to capture/keras/library.py or window/tensorflow_private.py:\n" + (
        "\n".join(misplaced)
    )


def test_both_files_name_some():
    for name in NAMES_PRIVATE_PARTS:
        assert len(foreign_private_parts(MODULES[name].read_text())) > 5, name


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("model._compile_loss", "_compile_loss"),
        ("self.model._compile_loss", "_compile_loss"),
        ("model().layers[0]._losses", "_losses"),
        ("function._is_default = True", "_is_default"),
        ("del model._losses", "_losses"),
        ("class Model(Base):\n    def run(self): self._losses", "_losses"),
        ("getattr(model, '_compile_loss', None)", "_compile_loss"),
        ("_losses = getattr(model, '_losses')", "_losses"),
        ("hasattr(model, '_make_function')", "_make_function"),
        ("setattr(model, '_jit_compile', False)", "_jit_compile"),
        ("vars(model)['_jit_compile'] = False", "_jit_compile"),
        ("for name in ('losses', '_losses'): pass", "_losses"),
        ("PLACES = {'_losses': 1}", "_losses"),
        ("type(strategy).__name__ == '_DefaultStrategy'", "_DefaultStrategy"),
        ("sys.modules.get('keras.src.losses')", "keras.src.losses"),
        ("WHERE = {'tf_keras': 'tf_keras.src.losses'}", "tf_keras.src.losses"),
        ("f'tensorflow.python.{name}'", "tensorflow.python."),
        ("import keras.src.losses", "keras.src.losses"),
        ("from tensorflow.python.eager import context", "context"),
        ("from google.protobuf import _message", "_message"),
        ("class Callback:\n    _supports_tf_logs = True", "_supports_tf_logs"),
        ("class Callback:\n    _supports_tf_logs: bool = True", "_supports_tf_logs"),
        ("class State(Base):\n    def _copy_to_cpu(self): pass", "_copy_to_cpu"),
    ],
)
def test_a_private_part_in_the_wrong_place_is_named(source, named):
    line = source.count("\n") + 1
    assert foreign_private_parts(source) == [(line, named)]


@pytest.mark.parametrize(
    "source",
    [
        "model.__class__.__name__",
        "sys._getframe(1)",
        "class Own:\n    def __init__(self): self._n = 1\n    def is_as(self, other): other._n",
        "class Own:\n    def run(self): self._help()\n    def _help(self): pass",
        "class Own:\n    _n = 1\n    def f(self, name): return name == '_n' or self._n",
        "from tb_firstloss.reading.format import _scan",
        "'''keras.src.losses is where the Loss is.'''",
        "def f():\n    '''_private'''",
        "x = '_ stands for nothing'",
        "_T = TypeVar('_T')",
        "f'{side}_run'",
        "class Shown:\n    def _repr_html_(self): pass",
        "import keras, tensorflow",
    ],
)
def test_what_is_public_or_the_modules_is_left_alone(source):
    assert foreign_private_parts(source) == []


def test_classes_of_other_modules_are_ours():
    base = "class Base:\n    def _help(self): pass"
    derived = "class Derived(Base):\n    def run(self): self._help()"
    for source, other in ((base, derived), (derived, base)):
        assert foreign_private_parts(source) == [(2, "_help")]
        others = {"ours": members(ast.parse(other)), "used": used_names(ast.parse(other))}
        assert foreign_private_parts(source, **others) == []
