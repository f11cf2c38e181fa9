"""Workflows, recipe and metadata: well-formed, and of one mind with pyproject.toml."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.packaging.conftest import REPOSITORY, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))


def test_workflows_follow_githubs_schema():
    assert {path.stem for path in WORKFLOWS} == {"test", "wheels", "docs", "publish"}
    run(
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        *WORKFLOWS,
    )


def test_workflows_give_nothing_away():
    run(
        Path(sys.executable).with_name("zizmor"),
        "--offline",
        "--quiet",
        "--min-severity",
        "medium",
        REPOSITORY / ".github",
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_there_is(path):
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    steps = "\n".join(step.get("run", "") for job in jobs for step in job.get("steps", ()))
    targets = re.findall(r"^(?:[\w.]+=\S+ )*make (\w[\w-]*)", steps, re.MULTILINE)
    makefile = (REPOSITORY / "Makefile").read_text()
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.M)] == []
    files = re.findall(r"(?:^|\s)((?:\.ci|tests|docs|benchmarks)/[\w./-]+)", steps)
    assert [file for file in files if not (REPOSITORY / file).exists()] == []


def test_the_recipe_asks_for_what_the_project_asks_for():
    text = (REPOSITORY / "recipe/meta.yaml").read_text()
    plain = re.sub(r"\{%.*?%\}\n|\s*# \[.*", "", text)
    recipe = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "X", plain))
    run_needs = {
        Requirement(need.replace(" ", "", 1))
        for need in recipe["requirements"]["run"]
        if " " in need
    }
    asked = {Requirement(need) for need in PROJECT["dependencies"]}
    assert {(r.name.replace("_", "-"), r.specifier) for r in run_needs if r.name != "python"} == {
        (r.name, r.specifier) for r in asked
    }
    assert f"python {PROJECT['requires-python']}" in recipe["requirements"]["run"]
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["home"] == PROJECT["urls"]["Repository"]


def test_hints_name_the_missing_package_and_no_extra_of_this_one():
    package = (REPOSITORY / "tb_firstloss").rglob("*.py")
    assert [path for path in package if "tb-firstloss[" in path.read_text()] == []


def test_the_repository_has_one_address():
    setup = (REPOSITORY / "setup.py").read_text()
    assert f'REPOSITORY = "{PROJECT["urls"]["Repository"]}"' in setup
