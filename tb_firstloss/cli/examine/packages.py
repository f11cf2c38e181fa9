"""What doctor says about the installed packages, and whether they work together.

TensorFlow and TensorBoard are run in child processes: only running them shows whether they run,
and a crash takes nothing else down.
"""

import contextlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from tb_firstloss.cli.examine.machine import Finding, examine_gpu, note, ok, problem
from tb_firstloss.reading.format import extension

_TESTED = ((2, 16), (2, 21))
"""Oldest and newest minor version of TensorFlow and TensorBoard that the tests cover."""

_TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-rocm", "tensorflow-macos", "tf-nightly")
_PROFILE_PLUGINS = ("xprof", "tensorboard-plugin-profile")
_SECONDS = 180

_REMEDIES = {
    "pkg_resources": "pip install 'setuptools<82': this TensorBoard needs its pkg_resources",
    "No module named 'tensorboard": "pip install 'tensorboard>=2.16,<2.22'",
    "(?i:protobuf)|Descriptors cannot be created": "pip install --upgrade protobuf, or the version "
    "that the message asks for",
    "No module named '?absl": "pip install absl-py",
    "No module named '?grpc": "pip install grpcio",
    "No module named '?PIL": "pip install pillow",
    r"No module named '?(\w+)": r"pip install \1",
    r"signal 4\b": "this build uses instructions that the processor lacks; "  # SIGILL
    "install another build",
    r"libstdc\+\+|GLIBC": "the system's libraries are older than this build needs; "
    "use a newer system image",
}
"""What helps against a failure to import; the first pattern found in the message counts."""

_ASK_TENSORFLOW = """
import json
import tensorflow as tf
import keras
print(json.dumps({
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "backend": keras.config.backend() if hasattr(keras, "config") else None,
    "gpus": [gpu.name for gpu in tf.config.list_physical_devices("GPU")],
    "built_with_gpu": tf.test.is_built_with_gpu_support(),
}))
"""
_ASK_TENSORBOARD = """
import json
from importlib import metadata
from tensorboard import default, version
from tensorboard.compat.proto import event_pb2
from google.protobuf.internal import api_implementation
plugins = {}
for entry in metadata.entry_points(group="tensorboard_plugins"):
    plugins[entry.name] = None
    try:
        entry.load()
    except Exception as error:
        plugins[entry.name] = [entry.dist.name, f"{type(error).__name__}: {error}"]
print(json.dumps({
    "tensorboard": version.VERSION,
    "protobuf": api_implementation.Type(),
    "plugins": plugins,
}))
"""


def examine_packages() -> Iterator[Finding]:
    """Yields the findings about Python, TensorFlow, TensorBoard and what they load."""
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield ok("Python", version)
    else:
        yield note("Python", version, "tested are 3.10 to 3.13, and 3.14 for reading")
    yield from examine_tensorflow()
    yield from examine_tensorboard()
    yield examine_reader()


def examine_tensorflow() -> Iterator[Finding]:
    """Yields the findings about TensorFlow, Keras and the GPU that they see."""
    installed = [(name, version) for name in _TENSORFLOWS if (version := installed_version(name))]
    if not installed:
        missing = "not installed: reading works, capturing does not"
        yield note("TensorFlow", missing, "pip install tensorflow")
        return
    facts, failure = ask(_ASK_TENSORFLOW)
    if failure:
        what = " and ".join(f"{name} {version}" for name, version in installed)
        yield problem("TensorFlow", f"{what} fails: {failure}", _remedy_for(failure))
        return
    yield judge_version("TensorFlow", facts["tensorflow"])
    yield judge_keras(facts["keras"], facts["backend"])
    if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "True", "true"):
        yield _examine_legacy_keras(facts["tensorflow"])
    yield examine_gpu(facts["gpus"], built_with_gpu=facts["built_with_gpu"])


def judge_version(name: str, version: str) -> Finding:
    """Returns whether this version of TensorFlow or TensorBoard is one that the tests cover."""
    oldest, newest = _TESTED
    minor = _release(version)[:2]
    if minor < oldest:
        remedy = f"pip install --upgrade '{name.lower()}>=2.{oldest[1]}'"
        return problem(name, f"{version} is too old", remedy)
    if minor > newest:
        return note(name, version, f"newer than tested (2.{oldest[1]} to 2.{newest[1]})")
    return ok(name, version)


def judge_keras(version: str, backend: str | None) -> Finding:
    """Returns whether this version of Keras, with this backend, can be captured."""
    if _release(version) < (3, 0, 5):
        return problem("Keras", f"{version} is too old", "pip install --upgrade 'keras>=3.0.5'")
    if backend not in (None, "tensorflow"):
        remedy = "set KERAS_BACKEND=tensorflow for FirstLossCallback and probe"
        return problem("Keras", f"{version} computes with {backend}", remedy)
    return ok("Keras", version)


def examine_tensorboard() -> Iterator[Finding]:
    """Yields the findings about TensorBoard, protobuf and the plugins."""
    facts, failure = ask(_ASK_TENSORBOARD)
    if failure:
        version = installed_version("tensorboard") or "not installed"
        yield problem("TensorBoard", f"{version}: {failure}", _remedy_for(failure))
        return
    yield judge_version("TensorBoard", facts["tensorboard"])
    version = installed_version("protobuf") or "unknown"
    if facts["protobuf"] == "python":
        remedy = "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or reinstall protobuf"
        yield note("protobuf", f"{version}, in pure Python: reading is slow", remedy)
    else:
        yield ok("protobuf", f"{version} ({facts['protobuf']})")
    yield from judge_plugins(facts["plugins"])


def examine_reader() -> Finding:
    """Returns whether the compiled half of the reader is in use."""
    if extension.compiled:
        return ok("compiled reader", "active")
    if os.environ.get("TB_FIRSTLOSS_PURE_PYTHON"):
        return note("compiled reader", "switched off", "unset TB_FIRSTLOSS_PURE_PYTHON")
    # pip would take the wheel without it from its cache again.
    again = f"pip install --force-reinstall --no-deps --no-cache-dir {_source()}"
    remedy = f"install a C compiler, then {again}"
    if extension.google_crc32c is None:
        remedy += "; or pip install google-crc32c, which at least speeds up the checksums"
    return note("compiled reader", "not built: reading is exact, but slower", remedy)


def judge_plugins(plugins: dict[str, list[str] | None]) -> Iterator[Finding]:
    """Yields the plugins that fail to load, and whether the First loss tab and xprof are there.

    ``plugins`` gives the distribution and error of each that fails, and None of the others.
    """
    for name, failure in plugins.items():
        if failure is not None:
            found = f"fails to load, so TensorBoard does not start: {failure[1]}"
            remedy = f"pip install --upgrade {failure[0]}, or pip uninstall {failure[0]}"
            yield problem(f"plugin {name}", found, remedy)
    if "tb_firstloss" not in plugins:
        remedy = f"pip install {_source()} (a source tree that is not installed has no tab)"
        yield note("First loss tab", "not active", remedy)
    elif plugins["tb_firstloss"] is None:
        yield ok("First loss tab", "active")
    if "profile" not in plugins:
        missing = "not installed: profiles are recorded, but not shown"
        yield note("profile plugin", missing, "pip install tensorboard-plugin-profile")
    elif plugins["profile"] is None:
        versions = ((name, installed_version(name)) for name in _PROFILE_PLUGINS)
        yield ok("profile plugin", ", ".join(f"{name} {v}" for name, v in versions if v))


def _source() -> str:
    """Returns what pip installs this package from again: its checkout or file, else its name."""
    checkout = Path(__file__).parents[3]
    if (checkout / "pyproject.toml").exists():
        return f"--editable {shlex.quote(str(checkout))}"
    with contextlib.suppress(metadata.PackageNotFoundError):
        recorded = metadata.distribution("tb-firstloss").read_text("direct_url.json")
        if recorded:
            source = json.loads(recorded)
            prefix = f"{source['vcs_info']['vcs']}+" if "vcs_info" in source else ""
            return shlex.quote(f"{prefix}{source['url']}")
    return "tb-firstloss"


def installed_version(distribution: str) -> str | None:
    """Returns the version of an installed distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def ask(script: str) -> tuple[dict[str, Any], str]:
    """Runs a script whose last line is JSON; returns that, and why there is none or ""."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {_SECONDS} s"
    if done.returncode < 0:
        return {}, f"killed by signal {-done.returncode}"
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or not lines:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        return {}, said[-1]
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer, ""


def _examine_legacy_keras(tensorflow: str) -> Finding:
    if version := installed_version("tf-keras"):
        return ok("tf_keras", f"{version}, as TF_USE_LEGACY_KERAS asks for")
    found = "not installed, but TF_USE_LEGACY_KERAS is set"
    major, minor, *_ = _release(tensorflow)
    remedy = f"pip install 'tf-keras~={major}.{minor}.0', or unset it"
    return problem("tf_keras", found, remedy)


def _release(version: str) -> tuple[int, ...]:
    """Returns a version's leading numbers; a vendor's suffix need not follow Python's rules."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


def _remedy_for(failure: str) -> str:
    for pattern, remedy in _REMEDIES.items():
        if match := re.search(pattern, failure):
            return match.expand(remedy)
    return "reinstall it: pip install --force-reinstall, in a fresh virtual environment"
