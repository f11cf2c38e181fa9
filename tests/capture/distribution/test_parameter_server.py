import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tb_firstloss import read_first_loss


@pytest.mark.slow
def test_the_first_scheduled_step_is_recorded_exactly(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.parameter_server", str(tmp_path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "weight 3.0" in done.stdout
    expected = np.arange(10, dtype=np.float32).reshape(5, 2).sum(1)
    back = read_first_loss(tmp_path)
    assert back.per_example.tolist() == expected.tolist()
    assert back.loss == expected.mean()
    assert back.metadata["strategy"] == "ParameterServerStrategyV2"
