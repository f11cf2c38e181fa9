"""Recordings that the manual's examples read."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.docs.pages import REPOSITORY

TRAIN = """
from tb_firstloss import demo

demo.train("runs/demo")
demo.train("runs/before")
demo.train("runs/after", weight_seed=1)
demo.train("runs/digits", loss="squared-error")
"""


def run(*arguments, cwd, **environment):
    """Runs Python with these arguments in a folder and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error::tb_firstloss.errors.FirstLossWarning", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """The logdir that docs/cli.md makes."""
    folder = tmp_path_factory.mktemp("recordings")
    run("-c", TRAIN, cwd=folder)
    return folder / "runs"


@pytest.fixture
def folder(recordings, tmp_path):
    """A folder with these recordings in ``runs``."""
    shutil.copytree(recordings, tmp_path / "runs")
    return tmp_path
