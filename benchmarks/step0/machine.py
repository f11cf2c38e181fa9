"""Which machine a measurement is from: device, driver, versions."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from typing import Any

import tensorflow as tf


def describe_machine() -> dict[str, Any]:
    """Returns the device, its driver and the versions of what was used."""
    gpus = tf.config.list_physical_devices("GPU")
    build = tf.sysconfig.get_build_info()
    packages = ("tensorflow", "keras", "xprof", "tensorboard", "numpy", "tb-firstloss")
    facts: dict[str, Any] = {
        "device": "GPU:0" if gpus else "CPU:0",
        "python": platform.python_version(),
        "built_for": {name: build.get(f"{name}_version") for name in ("cuda", "cudnn")},
        "versions": {name: find_version(name) for name in packages},
    }
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        facts["gpu"] = details.get("device_name")
        facts["compute_capability"] = details.get("compute_capability")
        facts["driver"] = ask_driver()
        nvidia = sorted(
            (d.metadata["Name"], d.version)
            for d in metadata.distributions()
            if d.metadata["Name"].startswith("nvidia-")
        )
        facts["libraries"] = dict(nvidia)
    return facts


def find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def ask_driver() -> str | None:
    """Returns the driver's version, as nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip()
