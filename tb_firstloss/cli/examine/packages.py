"""What doctor says of the installed packages, and whether they work together.

TensorFlow and TensorBoard are asked in processes of their own: only running them tells whether
they run, and one that crashes takes nothing with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from tb_firstloss.cli.examine.findings import Finding, note, ok, problem

_TESTED = ((2, 16), (2, 21))
"""Oldest and newest minor version of TensorFlow and TensorBoard that the tests run with."""

_TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-rocm", "tensorflow-macos", "tf-nightly")
_PROFILE_PLUGINS = ("xprof", "tensorboard-plugin-profile")
_SECONDS = 180

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
broken = {}
for entry in metadata.entry_points(group="tensorboard_plugins"):
    try:
        entry.load()
    except Exception as error:
        broken[entry.name] = [entry.dist.name, f"{type(error).__name__}: {error}"]
print(json.dumps({
    "tensorboard": version.VERSION,
    "protobuf": api_implementation.Type(),
    "plugins": sorted({entry.name for entry in metadata.entry_points(group="tensorboard_plugins")}),
    "broken": broken,
}))
"""


def examine_packages() -> Iterator[tuple[Finding, dict[str, Any]]]:
    """Yields the findings, each with the facts that later ones build on."""
    version = sys.version_info
    text = f"{version.major}.{version.minor}.{version.micro}"
    if (3, 10) <= version[:2] <= (3, 13):
        yield ok("Python", text), {}
    else:
        yield note("Python", text, "tested are 3.10 to 3.13"), {}
    yield from examine_tensorflow()
    yield from examine_tensorboard()


def examine_tensorflow() -> Iterator[tuple[Finding, dict[str, Any]]]:
    """Yields what is to be said of TensorFlow and Keras."""
    installed = [(name, version) for name in _TENSORFLOWS if (version := installed_version(name))]
    if not installed:
        missing = "not installed: reading works, capturing does not"
        yield note("TensorFlow", missing, "pip install 'tb-firstloss[tensorflow]'"), {}
        return
    facts, failure = ask(_ASK_TENSORFLOW)
    if failure:
        what = " and ".join(f"{name} {version}" for name, version in installed)
        yield (
            problem("TensorFlow", f"{what} cannot be used: {failure}", _import_remedy(failure)),
            {},
        )
        return
    yield _judge_version("TensorFlow", facts["tensorflow"]), facts
    yield judge_keras(facts["keras"], facts["backend"]), {}
    if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "True", "true"):
        if version := installed_version("tf-keras"):
            yield ok("tf_keras", f"{version}, as TF_USE_LEGACY_KERAS asks for"), {}
        else:
            found = "TF_USE_LEGACY_KERAS is set, and tf_keras is not installed"
            remedy = f"pip install 'tf-keras~={_minor(facts['tensorflow'])}.0', or unset it"
            yield problem("tf_keras", found, remedy), {}


def judge_keras(version: str, backend: str | None) -> Finding:
    """Returns what is to be said of Keras."""
    if _numbers(version) < (3, 0, 5):
        return problem("Keras", f"{version} is too old", "pip install --upgrade 'keras>=3.0.5'")
    if backend not in (None, "tensorflow"):
        remedy = "set KERAS_BACKEND=tensorflow for FirstLossCallback and probe"
        return problem("Keras", f"{version} computes with {backend}", remedy)
    return ok("Keras", version)


def examine_tensorboard() -> Iterator[tuple[Finding, dict[str, Any]]]:
    """Yields what is to be said of TensorBoard, protobuf and the plugins."""
    facts, failure = ask(_ASK_TENSORBOARD)
    if failure:
        version = installed_version("tensorboard") or "not installed"
        yield problem("TensorBoard", f"{version}: {failure}", _import_remedy(failure)), {}
        return
    yield _judge_version("TensorBoard", facts["tensorboard"]), {}
    version = installed_version("protobuf") or "unknown"
    if facts["protobuf"] == "python":
        remedy = "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or reinstall protobuf"
        yield note("protobuf", f"{version}, in pure Python: reading is slow", remedy), {}
    else:
        yield ok("protobuf", f"{version} ({facts['protobuf']})"), {}
    for name, (distribution, failure) in facts["broken"].items():
        found = f"fails to load, so TensorBoard does not start: {failure}"
        remedy = f"pip install --upgrade {distribution}, or pip uninstall {distribution}"
        yield problem(f"plugin {name}", found, remedy), {}
    yield from ((finding, {}) for finding in judge_plugins(facts["plugins"], facts["broken"]))


def judge_plugins(plugins: list[str], broken: dict[str, Any]) -> Iterator[Finding]:
    """Yields whether the First loss tab and the profile plugin are active."""
    if "tb_firstloss" in plugins and "tb_firstloss" not in broken:
        yield ok("First loss tab", "active")
    elif "tb_firstloss" not in plugins:
        remedy = "install the package: pip install tb-firstloss (a source tree has no entry point)"
        yield note("First loss tab", "not active", remedy)
    if "profile" in plugins and "profile" not in broken:
        found = ((name, installed_version(name)) for name in _PROFILE_PLUGINS)
        yield ok("profile plugin", ", ".join(f"{name} {v}" for name, v in found if v))
    elif "profile" not in plugins:
        found_text = "not installed: profiles are recorded, but not shown"
        yield note("profile plugin", found_text, "pip install 'tb-firstloss[profile]'")


def installed_version(distribution: str) -> str | None:
    """Returns the version of an installed distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def ask(script: str) -> tuple[dict[str, Any], str]:
    """Runs a script that prints JSON as its last line; returns that, or why there is none."""
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
        return {}, f"it is ended by signal {-done.returncode}"
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or not lines:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        return {}, said[-1]
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer, ""


def _judge_version(name: str, version: str) -> Finding:
    oldest, newest = _TESTED
    minor = _numbers(version)[:2]
    package = name.lower()
    if minor < oldest:
        return problem(
            name, f"{version} is too old", f"pip install --upgrade '{package}>=2.{oldest[1]}'"
        )
    if minor > newest:
        return note(name, version, f"newer than what is tested (2.{oldest[1]} to 2.{newest[1]})")
    return ok(name, version)


def _import_remedy(failure: str) -> str:
    if "pkg_resources" in failure:
        return "pip install 'setuptools<82': this TensorBoard needs its pkg_resources"
    if "No module named 'tensorboard" in failure:
        return "pip install 'tensorboard>=2.16,<2.22'"
    if "protobuf" in failure.lower() or "Descriptors cannot be created" in failure:
        return "pip install --upgrade protobuf, or the version that the message asks for"
    if "No module named" in failure:
        return f"pip install {failure.rpartition(' ')[2].strip(chr(39)).partition('.')[0]}"
    if "signal 4" in failure:
        return "this build uses instructions that the processor lacks; install another build"
    if "libstdc++" in failure or "GLIBC" in failure:
        return "the system's libraries are older than this build needs; use a newer system image"
    return "reinstall it: pip install --force-reinstall, in a fresh virtual environment"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _numbers(version: str) -> tuple[int, ...]:
    """Returns the leading numbers of a version: (2, 21, 0) for "2.21.0rc1"."""
    numbers = []
    for part in version.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
