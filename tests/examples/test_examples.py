"""Each example runs as it is, and does what it says."""

import csv
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tb_firstloss

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
LN_10, LN_2 = math.log(10), math.log(2)


def run(example, *arguments, cwd):
    """Runs an example in a folder; returns what it printed. A warning of the package fails it."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "Warning: " not in done.stderr
    return done.stdout


def environment(**more):
    """Returns this process's environment, in which programs import this checkout."""
    return {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **more}


def test_the_classifier_begins_undecided(tmp_path):
    printed = run("keras_classifier.py", cwd=tmp_path)
    first = tb_firstloss.read_first_loss(tmp_path / "runs/classifier")
    assert first.mean == pytest.approx(LN_10, rel=0.1)
    assert f"loss {first.loss:.4f}" in printed
    assert first.loss > first.mean  # by the regulariser


def test_the_loop_profiles_a_warm_step(tmp_path):
    run("custom_loop.py", cwd=tmp_path)
    assert tb_firstloss.read_first_loss(tmp_path / "runs/loop").count == 32
    assert (tmp_path / "runs/loop/first_batch-warm/plugins/profile").is_dir()


def test_both_losses_of_the_gan_begin_undecided(tmp_path):
    run("gan.py", cwd=tmp_path)
    losses = tb_firstloss.read_first_loss(tmp_path / "runs/gan").losses
    assert dict(losses) == pytest.approx({"d_loss": 2 * LN_2, "g_loss": LN_2}, rel=0.1)


def test_two_workers_make_one_recording(tmp_path):
    printed = run("two_workers.py", cwd=tmp_path)
    assert printed.count("worker ") == 2
    first = tb_firstloss.read_first_loss(tmp_path / "runs/workers")
    assert sorted(first.per_example.tolist()) == sorted((x - 1) ** 2 for x in range(8))


def test_the_fleet_becomes_a_table_and_a_plot(tmp_path):
    from PIL import Image

    for number in range(3):
        run("ci_gate/train.py", "--logdir", f"runs/{number}", "--steps", "1", cwd=tmp_path)
    run("fleet.py", cwd=tmp_path)
    with (tmp_path / "first_losses.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    with Image.open(tmp_path / "first_losses.png") as picture:
        assert len(picture.convert("L").getcolors(256)) > 2


def test_the_notebook_shows_the_loss_as_a_table(tmp_path, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook = nbformat.read(EXAMPLES / "first_loss.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = [
        output["data"]["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", ())
    ]
    assert len(shown) == 2
    assert all("<table" in html for html in shown)


@pytest.fixture
def pull_request(tmp_path):
    """A checkout of a change whose target branch is main, with the example's train.py."""
    origin = tmp_path / "origin"
    shutil.copytree(EXAMPLES / "ci_gate", origin)
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "main"]):
        subprocess.run([*git, *command], cwd=origin, check=True)
    subprocess.run(["git", "clone", "-q", origin, tmp_path / "clone"], check=True)
    return tmp_path / "clone"


def run_workflow(folder):
    """Runs the steps of the workflow but the installation; returns the name of the failed one."""
    jobs = yaml.safe_load((EXAMPLES / "ci_gate/first-loss.yml").read_text())["jobs"]
    commands = folder.parent / "bin"
    commands.mkdir()
    for name, module in (("tb-firstloss", "-m tb_firstloss"), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (commands / name).chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    for step in jobs["first-loss"]["steps"]:
        if "run" in step and step["name"] != "Install":
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", step["run"]],
                cwd=folder,
                env=environment(PATH=path, GITHUB_BASE_REF="main"),
                check=False,
            )
            if done.returncode:
                return step["name"]
    return None


CHANGES = {
    "nothing": ("", "", None),
    "a comment": ("import argparse\n", "import argparse  # a change\n", None),
    "inputs that are not scaled": (
        "images / 16",
        "images * 16",
        "It is that of an untrained network",
    ),
    "another seed": ("random_seed(0)", "random_seed(1)", "It is the same"),
}


@pytest.mark.parametrize(("old", "new", "failed"), CHANGES.values(), ids=CHANGES)
def test_the_gate_lets_only_the_same_first_loss_pass(old, new, failed, pull_request):
    script = pull_request / "train.py"
    script.write_text(script.read_text().replace(old, new))
    assert run_workflow(pull_request) == failed


def test_the_gate_follows_githubs_schema():
    command = [sys.executable, "-m", "check_jsonschema"]
    schema = ["--builtin-schema", "vendor.github-workflows"]
    subprocess.run([*command, *schema, EXAMPLES / "ci_gate/first-loss.yml"], check=True)
