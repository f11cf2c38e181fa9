"""The distributions of this checkout, and environments that have them.

They are built anew, or taken from the folder that DISTRIBUTIONS names.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GIVEN = os.environ.get("DISTRIBUTIONS")


def run(*command, **options):
    """Runs a command; returns what it printed, and shows it if the command fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def given(pattern):
    (found,) = (REPOSITORY / GIVEN).glob(pattern)
    return found


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    if GIVEN:
        return given("*.tar.gz")
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", out, REPOSITORY)
    (found,) = out.iterdir()
    return found


def build_wheel(sdist, out, **environment):
    """Builds a wheel from the source distribution, as an installation without wheels does."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out, sdist]
    run(*command, env={**os.environ, **environment})
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    if GIVEN:
        return given("*-cp*.whl")
    return build_wheel(sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def pure_wheel(sdist, tmp_path_factory):
    if GIVEN:
        return given("*-none-any.whl")
    return build_wheel(sdist, tmp_path_factory.mktemp("pure"), TB_FIRSTLOSS_PURE="1")


@pytest.fixture(scope="session")
def python(wheel, tmp_path_factory):
    """An interpreter that has the wheel, and from this environment everything else."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    (packages,) = home.glob("[Ll]ib/**/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin/python"
