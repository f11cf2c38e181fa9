"""The README's Python runs as it stands, in one process, from top to bottom."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from tb_firstloss import read_first_loss, read_first_losses
from tests.capture.distribution.test_workers import free_ports

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(name=""):
    """The README's blocks of Python: the script of a name, or all that name none."""
    found = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    scripts = [block for block in found if re.match(r"# \w+\.py", block)]
    if name:
        return [script for script in scripts if script.startswith(f"# {name}")]
    return [block for block in found if block not in scripts]


@pytest.mark.slow
def test_every_python_block_runs(tmp_path):
    assert len(blocks()) >= 8
    printed = run("\n".join(blocks()), tmp_path / "readme.py")
    assert "FirstBatch(run='first_batch', step=0" in printed
    runs = {run.split("/")[0] for run in read_first_losses(tmp_path / "runs")}
    assert {"mine", "fit", "by_hand", "graph_loop", "mirrored", "fit_mirrored"} <= runs
    (fleet,) = blocks("fleet.py")
    run(fleet, tmp_path / "fleet.py")
    assert len(pyarrow.parquet.read_table(tmp_path / "first_losses.parquet")) == len(
        read_first_losses(tmp_path / "runs")
    )


@pytest.mark.slow
def test_the_workers_script_runs_on_two_workers(tmp_path):
    (code,) = blocks("worker.py")
    hosts = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    with concurrent.futures.ThreadPoolExecutor() as both:
        printed = both.map(
            lambda index: run(code, tmp_path / f"{index}.py", tf_config("worker", index, hosts)),
            range(2),
        )
    assert list(printed) == ["[1. 2. 3. 4.]\n"] * 2
    assert read_first_losses(tmp_path / "runs").keys() == {"workers/first_batch"}


@pytest.mark.slow
def test_the_coordinators_script_runs_on_a_cluster(tmp_path):
    (code,) = blocks("coordinator.py")
    hosts = {
        job: [f"localhost:{port}" for port in free_ports(count)]
        for job, count in (("worker", 2), ("ps", 1), ("chief", 1))
    }
    jobs = [("worker", 0), ("worker", 1), ("ps", 0)]
    start = "import tensorflow as tf\n" + "".join(
        f"server_{number} = tf.distribute.Server({hosts}, job_name={job!r}, task_index={index})\n"
        for number, (job, index) in enumerate(jobs)
    )
    run(start + code, tmp_path / "cluster.py", tf_config("chief", 0, hosts))
    first = read_first_loss(tmp_path / "runs" / "servers")
    assert first.per_example.tolist() == [0, 1, 2, 3]
    assert first.loss == 1.5


def tf_config(job, index, hosts):
    return json.dumps({"cluster": hosts, "task": {"type": job, "index": index}})


def run(code, script, tf_config=""):
    """Runs code as a script in its folder and returns what it printed."""
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error::tb_firstloss.errors.FirstLossWarning", str(script)],
        cwd=script.parent,
        env={**os.environ, "TF_CONFIG": tf_config} if tf_config else None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_two_commands_are_the_makefiles():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    commands = re.findall(r"^\$ make ([a-z ]+?)(?:\s+#.*)?$", README, re.MULTILINE)
    assert {"demo", "test"} <= set(commands)
    for target in " ".join(commands).split():
        assert f"\n{target}:" in makefile
