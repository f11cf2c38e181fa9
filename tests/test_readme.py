"""The README's Python runs as it stands, in one process, from top to bottom."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from tb_firstloss import read_first_losses

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_every_python_block_runs(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    fleet = [block for block in blocks if block.startswith("# fleet.py")]
    printed = run("\n".join(b for b in blocks if b not in fleet), tmp_path / "readme.py")
    assert "FirstBatch(run='first_batch', step=0" in printed
    runs = {run.split("/")[0] for run in read_first_losses(tmp_path / "runs")}
    assert {"mine", "fit", "by_hand", "graph_loop", "mirrored"} <= runs
    run(fleet[0], tmp_path / "fleet.py")
    assert len(pyarrow.parquet.read_table(tmp_path / "first_losses.parquet")) == len(
        read_first_losses(tmp_path / "runs")
    )


def run(code, script):
    """Runs code as a script in its folder and returns what it printed."""
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error::tb_firstloss.errors.FirstLossWarning", str(script)],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_two_commands_are_the_makefiles():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    commands = re.findall(r"^\$ make ([a-z ]+?)(?:\s+#.*)?$", README, re.MULTILINE)
    assert {"demo", "test"} <= set(commands)
    for target in " ".join(commands).split():
        assert f"\n{target}:" in makefile
