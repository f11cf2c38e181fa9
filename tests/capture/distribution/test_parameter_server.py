import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tb_firstloss import read_first_loss


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains in each way; returns the logdir, and each way's weight and warnings."""
    logdir = tmp_path_factory.mktemp("logs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.parameter_server", str(logdir)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return logdir, {how: said for line in lines for how, said in json.loads(line).items()}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["call", "both"])
def test_the_first_scheduled_step_is_recorded_exactly(trained, how):
    logdir, said = trained
    assert said[how] == {"weight": 3, "warnings": []}
    expected = np.arange(10, dtype=np.float32).reshape(5, 2).sum(1)
    back = read_first_loss(logdir / how)
    assert back.per_example.tolist() == expected.tolist()
    assert back.loss == expected.mean()
    assert back.metadata["strategy"] == "ParameterServerStrategyV2"


@pytest.mark.slow
def test_a_wrapped_step_that_is_scheduled_trains_and_warns_once_of_what_to_wrap(trained):
    _, said = trained
    assert said["neither"] == {"weight": 3, "warnings": []}
    assert said["step"]["weight"] == 3
    (warning,) = said["step"]["warnings"]
    assert "wrap the call instead: first.wrap(lambda *args: coordinator.schedule(" in warning
