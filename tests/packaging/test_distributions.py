"""Source distribution and wheels: whole, described rightly, and of use where they are installed."""

import email
import os
import re
import sys
import tarfile
import venv
import zipfile

import pytest

import tb_firstloss
from tests.packaging.conftest import REPOSITORY, run

pytestmark = pytest.mark.slow


def test_descriptions_and_contents_are_in_order(sdist, wheel, pure_wheel):
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, pure_wheel)
    run(sys.executable, "-m", "check_wheel_contents", wheel, pure_wheel)
    assert wheel.name.startswith(f"tb_firstloss-{tb_firstloss.__version__}-cp3")
    assert pure_wheel.name.endswith("-py3-none-any.whl")


def test_a_wheel_has_the_package_and_nothing_else(wheel):
    tracked = run("git", "ls-files", "tb_firstloss", cwd=REPOSITORY).split()
    names = [n for n in zipfile.ZipFile(wheel).namelist() if not n.endswith("/")]
    packed = [name for name in names if ".dist-info/" not in name]
    extension = [name for name in packed if "/_scan.c" in name]
    assert len(extension) == 1
    assert sorted({*packed} - {*extension}) == sorted(tracked)


def test_links_of_the_package_page_lead_out_of_any_folder(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    page = email.message_from_bytes(archive.read(name)).get_payload()
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert len(targets) > 3
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    paths = re.findall(r"/(?:raw|blob)/HEAD/([^)#]+)", page)
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


@pytest.mark.timeout(1800)
def test_in_an_empty_environment_it_reads_and_asks_for_what_is_missing(wheel, pure_wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    python = tmp_path / "venv/bin/python"
    for file, engine in ((wheel, "--compiled"), (pure_wheel, "--pure")):
        run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", file)
        run(python, "-m", "pip", "install", "--quiet", file)
        said = run(python, "-I", REPOSITORY / "tests/packaging/smoke.py", engine, cwd=tmp_path)
        assert f"tb-firstloss {tb_firstloss.__version__} works" in said


def test_the_source_distributions_own_tests_are_there_and_pass(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

    def collect(folder):
        # A checkout may have a built extension next to its sources, and tests that ask for it.
        alike = {"PYTHONPATH": str(folder), "TB_FIRSTLOSS_PURE_PYTHON": "1"}
        listed = run(*tests, "--collect-only", cwd=folder, env={**os.environ, **alike})
        return [line for line in listed.splitlines() if "::" in line]

    assert collect(root) == collect(REPOSITORY)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    fast = ("-m", "not slow", "tests/reading/test_golden.py", "tests/test_arrays.py")
    run(*tests, *fast, cwd=root, env=environment)
