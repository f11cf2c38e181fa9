"""Which module may import which, and what importing costs."""

import ast
import graphlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import tb_firstloss

PACKAGE = Path(tb_firstloss.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
HEAVY = {"tensorflow", "keras", "tf_keras"}
WITHOUT_TENSORFLOW = ("reading", "profiles", "checks", "comparison", "cli", "tensorboard_tab")
GROUND = ("arrays", "contract", "errors", "first_batch", "loss_table", "manifest", "notebook")
BASE = {f"tb_firstloss.{name}" for name in (*GROUND, "text")}


def imports_of(path):
    """Every module that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def siblings_of(path):
    return {name for name in imports_of(path) if name in MODULES} - {"tb_firstloss"}


def in_rooms(*rooms):
    return {n: p for n, p in MODULES.items() if n.split(".")[1:2] in [[r] for r in rooms]}


@pytest.mark.parametrize("name", sorted(BASE))
def test_the_base_imports_only_itself(name):
    assert siblings_of(MODULES[name]) <= BASE


def test_the_base_has_no_circle():
    imports = {name: siblings_of(MODULES[name]) for name in BASE}
    assert set(graphlib.TopologicalSorter(imports).static_order()) == BASE  # or a CycleError


def test_what_does_without_tensorflow_imports_nothing_of_capture():
    for name, path in in_rooms(*WITHOUT_TENSORFLOW).items():
        assert not {n for n in siblings_of(path) if ".capture" in n}, name


def test_reading_imports_nothing_of_the_command_line():
    for name, path in in_rooms("reading", "profiles", "checks", "comparison").items():
        assert not {n for n in siblings_of(path) if ".cli" in n}, name


def test_reading_and_checks_never_import_tensorflow():
    # TensorDatum.to_tensor is asked for a tf.Tensor, and is the one exception.
    for name, path in in_rooms(*WITHOUT_TENSORFLOW).items():
        if name != "tb_firstloss.reading.tensor_datum":
            assert not {n.split(".")[0] for n in imports_of(path)} & HEAVY, name


def test_in_capture_only_the_doors_know_of_keras():
    keras = "tb_firstloss.capture.keras"
    importers = {
        name
        for name, path in in_rooms("capture").items()
        if any(n.startswith(keras) for n in siblings_of(path)) and not name.startswith(keras)
    }
    assert importers == {f"tb_firstloss.capture.{door}" for door in ("fit", "loop", "probe")}


def test_capture_has_no_circle():
    rooms = in_rooms("capture")
    imports = {name: siblings_of(path) & rooms.keys() - {name} for name, path in rooms.items()}
    assert set(graphlib.TopologicalSorter(imports).static_order()) == rooms.keys()  # or CycleError


def test_capture_imports_reading_only_to_verify():
    importers = {
        name
        for name, path in in_rooms("capture").items()
        if any(".reading" in n for n in siblings_of(path))
    }
    assert importers <= {
        "tb_firstloss.capture.writing.durable",
        "tb_firstloss.capture.resume",
        "tb_firstloss.capture.window.profiler",
    }


def loaded_after(code):
    script = f"{code}\nimport sys; print(*sorted({{n.split('.')[0] for n in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_else():
    assert not loaded_after("import tb_firstloss") & {*HEAVY, "numpy", "tensorboard", "google"}


def test_reading_a_logdir_imports_no_tensorflow(tmp_path):
    code = (
        "import tb_firstloss, sys\n"
        f"tb_firstloss.read_first_losses({str(tmp_path)!r})\n"
        f"list(tb_firstloss.iter_tensors({str(tmp_path)!r}))"
    )
    assert not loaded_after(code) & HEAVY


def test_the_command_line_imports_neither_tensorflow_nor_tensorboard_for_help():
    code = "from tb_firstloss.cli.main import _parser; _parser().format_help()"
    assert not loaded_after(code) & {*HEAVY, "tensorboard"}


def test_public_names_are_what_is_there():
    assert set(tb_firstloss.__all__) == {"__version__", "errors", *tb_firstloss._HOMES}
    for name in tb_firstloss.__all__:
        assert getattr(tb_firstloss, name) is not None
        assert name in dir(tb_firstloss)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = tb_firstloss.nothing_like_it


def test_the_version_is_the_distributions():
    assert importlib.metadata.version("tb-firstloss") == tb_firstloss.__version__
