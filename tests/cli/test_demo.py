import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tb_firstloss import read_first_loss

CAPTURED = """
import sys
import numpy as np
from tb_firstloss import demo

models = []
make_model = demo.make_model
demo.make_model = lambda seed: models.append(make_model(seed)) or models[-1]
demo.train(sys.argv[1])
np.savez(sys.argv[2], *models[0].get_weights())
"""


@pytest.mark.slow
def test_the_demo_trains_and_records_what_a_plain_loop_does(tmp_path):
    plain, captured, logdir = tmp_path / "plain.npz", tmp_path / "captured.npz", tmp_path / "runs"
    script = Path(__file__).parents[1] / "helpers" / "plain_demo.py"
    run(script, plain)
    run("-c", CAPTURED, logdir, captured)
    expected, trained = np.load(plain), np.load(captured)
    back = read_first_loss(logdir)
    assert back.per_example.tobytes() == expected["per_example"].tobytes()
    assert back.loss.tobytes() == expected["loss"].tobytes()
    weights = [name for name in expected if name.startswith("weight_")]
    assert len(weights) == len(trained.files) == 6
    for name, file in zip(weights, trained.files, strict=True):
        assert expected[name].tobytes() == trained[file].tobytes()


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
