"""Runs a part of Keras's installed tests in a process of its own, and compares two such runs."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

REPOSITORY = Path(__file__).parents[2]
INSTALLED = Path(keras.__file__).parent / "src"

Fit = tuple[str, int]
"""Test, and number of the fit in it; -1 stands for the test itself."""


LACKS = re.compile("recorded without the loss per example|: no (graph|graph trace|profile): ")
"""What may be said of a recording that was made: which part of it there is not."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What the plugin has noted.

    Attributes:
        tests: Outcome of each test, and the type of its error, by phase.
        fits: What each fit has left.
    """

    tests: dict[Fit, dict[str, tuple[str, str | None]]]
    fits: dict[Fit, dict[str, Any]]

    @property
    def recordings(self) -> int:
        return sum(bool(note["first"]) for note in self.fits.values())


def run(
    tests: Sequence[str], *, inject: str = "", position: str = "last", matching: str = ""
) -> Run:
    """Runs tests, given by file or id below ``keras/src``, with a callback or without one."""
    with tempfile.TemporaryDirectory() as directory:
        notes = Path(directory, "notes")
        command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull]
        command += ["--rootdir", str(INSTALLED), "--noconftest", "-p", "no:cacheprovider"]
        command += [
            "-p",
            "tests.keras_suite.plugin",
            "-W",
            "ignore::pytest.PytestUnknownMarkWarning",
        ]
        command += [f"--notes={notes}", f"--position={position}", "-k", matching]
        command += [f"--inject={inject}"] * bool(inject)
        command += [str(INSTALLED / test) for test in tests]
        ran = subprocess.run(
            command,
            cwd=directory,
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                "PYTHONHASHSEED": "0",
                "PYTHONPATH": str(REPOSITORY),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        # 1: tests have failed, those that need a package that is not installed.
        assert ran.returncode in (0, 1), ran.stdout[-4000:] + ran.stderr[-4000:]
        return read(notes)


def read(notes: Path) -> Run:
    tests: dict[Fit, dict[str, tuple[str, str | None]]] = {}
    fits = {}
    for line in notes.read_text().splitlines():
        note = json.loads(line)
        if "fit" in note:
            fits[note["test"], note["fit"]] = note
        else:
            phases = tests.setdefault((note["test"], -1), {})
            phases[note["phase"]] = note["outcome"], note["error"]
    return Run(tests, fits)


def differences(one: Run, other: Run) -> dict[Fit, str]:
    """Returns every difference in what tests came to, and in what fits left."""
    found = {}
    for key in one.tests.keys() | other.tests.keys():
        pair = one.tests.get(key), other.tests.get(key)
        if pair[0] != pair[1]:
            found[key] = f"{pair[0]} became {pair[1]}"
    for key in one.fits.keys() | other.fits.keys():
        left = [fit_left(each.fits.get(key)) for each in (one, other)]
        names = [name for name in left[0] | left[1] if left[0].get(name) != left[1].get(name)]
        if names:
            found[key] = "; ".join(f"{n}: {left[0].get(n)} became {left[1].get(n)}" for n in names)
    return found


def fit_left(note: dict[str, Any] | None) -> dict[str, Any]:
    return {} if note is None else {"error": note["error"], **note["left"]}


def unsaid(injected: Run) -> dict[Fit, str]:
    """Returns the fits that have trained and have neither a recording nor exactly one message."""
    found = {}
    for key, note in injected.fits.items():
        if note["first"] is None:
            if note["trained"] and len(note["said"]) != 1:
                found[key] = f"no recording, and these messages: {note['said']}"
        elif note["first"] not in note["on_disk"]:
            found[key] = "what the callback holds cannot be read back"
        elif any(not LACKS.search(message) for message in note["said"]):
            found[key] = f"a recording, and these messages: {note['said']}"
    return found


def wrong(injected: Run) -> dict[Fit, str]:
    """Returns the fits whose first loss is not what Keras logged, where both are of one batch."""
    found = {}
    for key, note in injected.fits.items():
        loss, logged = note.get("loss"), note["logged"]
        # Keras logs sum / count, which rounds.
        if None not in (loss, logged) and not np.isclose(loss, logged, 1e-6, 0, equal_nan=True):
            found[key] = f"recorded {loss}, logged {logged}"
    return found
