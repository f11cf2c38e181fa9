import os
import subprocess
import sys

import pytest

from tb_firstloss.cli.native_log import quiet_import


@pytest.fixture
def log_level(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")


def test_other_lines_on_stderr_are_passed_on(capfd, log_level):
    line = b"I0000 00:00:1.0 1 port.cc:112] oneDNN custom operations are on.\n"
    with quiet_import():
        os.write(2, b"mine\n" + line + line.replace(b"I0000", b"E0000"))
    assert capfd.readouterr().err == f"mine\n{line.decode().replace('I0000', 'E0000')}"
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"


@pytest.mark.slow
def test_the_demo_shows_no_line_of_tensorflows_log(tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "tb_firstloss", "demo", "--logdir", str(tmp_path), "--quiet"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
