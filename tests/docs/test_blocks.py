"""Every block of the README and of the manual runs, and every output shown is real."""

import concurrent.futures
import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys

import pyarrow.parquet
import pytest

from tb_firstloss import read_first_loss, read_first_losses
from tb_firstloss.cli.main import _parser
from tests.capture.distribution.test_workers import free_ports
from tests.docs.conftest import run
from tests.docs.pages import PAGES, REPOSITORY, blocks, commands, programs, prose, script

IN_TURN = """
import runpy, sys

for path in sys.argv[1:]:
    runpy.run_path(path, run_name="__main__")
"""


def name(page):
    return page.stem


# The recipes read a logdir of their own, see test_recipes.py.
WITH_PYTHON = [page for page in PAGES if programs(page) and page.stem != "recipes"]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_every_python_block_runs(page, folder):
    paths = [folder / f"program_{number}.py" for number, _ in enumerate(programs(page))]
    for path, program in zip(paths, programs(page), strict=True):
        path.write_text(program, encoding="utf-8")
    run("-c", IN_TURN, *map(str, paths), cwd=folder)
    logdirs = re.findall(r"First\w+\(\"runs/(\w+)", "".join(programs(page)))
    runs = {run.split("/")[0] for run in read_first_losses(folder / "runs")}
    assert {*logdirs} <= runs


@pytest.mark.slow
def test_the_fleet_script_writes_every_recording(folder):
    (folder / "fleet.py").write_text(script("fleet.py"))
    run("fleet.py", cwd=folder)
    table = pyarrow.parquet.read_table(folder / "first_losses.parquet")
    assert {*table["run"].to_pylist()} == {*read_first_losses(folder / "runs")}


@pytest.mark.slow
def test_the_workers_script_runs_on_two_workers(tmp_path):
    hosts = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    (tmp_path / "worker.py").write_text(script("worker.py"))
    with concurrent.futures.ThreadPoolExecutor() as both:
        printed = both.map(
            lambda index: run(
                "worker.py", cwd=tmp_path, TF_CONFIG=tf_config("worker", index, hosts)
            ),
            range(2),
        )
    assert list(printed) == ["[1. 2. 3. 4.]\n"] * 2
    assert read_first_losses(tmp_path / "runs").keys() == {"workers/first_batch"}


@pytest.mark.slow
def test_the_coordinators_script_runs_on_a_cluster(tmp_path):
    hosts = {
        job: [f"localhost:{port}" for port in free_ports(count)]
        for job, count in (("worker", 2), ("ps", 1), ("chief", 1))
    }
    jobs = [("worker", 0), ("worker", 1), ("ps", 0)]
    start = "import tensorflow as tf\n" + "".join(
        f"server_{number} = tf.distribute.Server({hosts}, job_name={job!r}, task_index={index})\n"
        for number, (job, index) in enumerate(jobs)
    )
    (tmp_path / "cluster.py").write_text(start + script("coordinator.py"))
    run("cluster.py", cwd=tmp_path, TF_CONFIG=tf_config("chief", 0, hosts))
    first = read_first_loss(tmp_path / "runs" / "servers")
    assert first.per_example.tolist() == [0, 1, 2, 3]
    assert first.loss == 1.5


def tf_config(job, index, hosts):
    return json.dumps({"cluster": hosts, "task": {"type": job, "index": index}})


def test_every_script_of_the_manual_is_tried():
    titles = {block.title for page in PAGES for block in blocks(page, "python") if block.title}
    assert titles == {"fleet.py", "worker.py", "coordinator.py"}


SHOWN = [
    page
    for page in PAGES
    if any(output for block in blocks(page, "console") for _, output in commands(block))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", SHOWN, ids=name)
def test_every_output_shown_is_what_the_command_prints(page, folder):
    if page.stem == "profile":  # whose command reads what its program records
        (folder / "program.py").write_text(programs(page)[0], encoding="utf-8")
        run("program.py", cwd=folder)
    code = 0
    for block in blocks(page, "console"):
        for command, expected in commands(block) if block.note != "needs a GPU" else ():
            words = shlex.split(command, comments=True)
            if not expected:
                continue
            if words == ["echo", "$?"]:
                assert expected.split() == [str(code)]
                continue
            assert words[0] == "tb-firstloss", f"{command}: say how to try it"
            if words[1] == "demo":
                shutil.rmtree(folder / "runs/demo")  # which it makes
            done = subprocess.run(
                [sys.executable, "-m", "tb_firstloss", *words[1:]],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            code, rows_vary = done.returncode, block.note == "rows vary"
            assert shape(done.stdout, rows_vary) == shape(expected, rows_vary), command


def shape(output, rows_vary):
    """Returns an output's lines without what differs from one run to the next."""
    text = re.sub(r"[▁▂▃▄▅▆▇█]+( *[▁▂▃▄▅▆▇█]+)*", "▁", output)
    text = re.sub(r"\S*/tensorboard\b", "tensorboard", text)
    text = re.sub(r"[0-9a-f]{12}…", "digest…", text)
    text = re.sub(r"\d[\d,.]*", "0", text)
    lines = [" ".join(re.sub("─+", "─", line).split()) for line in text.strip().splitlines()]
    if not rows_vary:
        return lines
    rule = len(lines) - lines[::-1].index("─")
    return [*lines[:rule], len(lines)]


CONSOLES = [page for page in PAGES if blocks(page, "console")]


@pytest.mark.parametrize("page", CONSOLES, ids=name)
def test_every_command_can_be_given(page):
    for block in blocks(page, "console"):
        for command, _ in commands(block):
            words = shlex.split(command, comments=True)
            words[0] = words[0].removeprefix(".venv/bin/")
            assert is_known(words), command


def is_known(words):
    """Returns whether a command's program exists and takes these arguments."""
    if words[0] == "tb-firstloss":
        with contextlib.suppress(SystemExit):
            _parser(words[1:]).parse_args(words[1:])
            return True
        return False
    if words[0] == "make":
        return all(is_target(word) for word in words[1:])
    if words[0].startswith("python") and words[1].startswith("benchmarks/"):
        source = (REPOSITORY / words[1]).read_text()
        return all(f'"{word}"' in source for word in words if word.startswith("--"))
    return words[0] in {"tensorboard", "pip", "python", "python3", "echo"}


def is_target(word):
    return re.search(rf"^{word}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE) is not None


def test_the_readme_shows_the_two_commands_and_ci_runs_its_test():
    shown = [command for block in blocks(PAGES[0], "console") for command, _ in commands(block)]
    assert {"demo", "test"} <= {shlex.split(each)[1] for each in shown if each.startswith("make")}
    assert "\nmake test\n" in (REPOSITORY / ".ci/run").read_text()


def test_every_make_target_that_the_text_names_exists():
    named = {
        word
        for page in PAGES
        for line in re.findall(r"`make ([a-z -]+)`", prose(page))
        for word in line.split()
    }
    assert "docs" in named
    assert [word for word in named if not is_target(word)] == []
