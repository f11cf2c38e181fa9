"""What mypy --strict and pyright say of a user's file, next to an installed wheel."""

import json
import re
import subprocess
import sys

import pytest

import tb_firstloss

pytestmark = pytest.mark.slow

GOOD = """
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tb_firstloss
from tb_firstloss import FirstLoss, FirstLossCallback, TensorDatum

warnings.filterwarnings("error", category=tb_firstloss.errors.DamageWarning)
first = FirstLoss(Path("runs"), expect={"a": "log(10)"}, hparams={"rate": 0.1}, warm_step=2)


def step(x: int, y: str = "") -> float:
    return x / 2


wrapped = first.wrap(step)
number: float = wrapped(1, y="y")
with first.trace():
    first.record(number)


@first.wrap
def bare(x: int) -> int:
    return x


@first.wrap(loss="per_example", total=["a", "b"])
def with_options(*, x: int) -> dict[str, Any]:
    return {"per_example": x}


total: int = bare(1)
result: dict[str, Any] = with_options(x=1)
callback = FirstLossCallback("runs", expect="auto", on_error="raise")
seen = callback.first_batch
if seen is not None:
    losses: Mapping[str, Any] = seen.losses
    mean: float = float(np.mean(seen.per_example))
back = tb_firstloss.read_first_losses("runs")
name: str = next(iter(back))
verdict = tb_firstloss.check(back[name], 2.3, rtol=0.2)
same = tb_firstloss.compare(back[name], back[name], rtol=1e-6)
datum: TensorDatum
for datum in tb_firstloss.iter_tensors("runs", tags=["loss"], steps=range(10), keep="last"):
    step_number: int = datum.step
damage: list[tb_firstloss.Damage] = tb_firstloss.verify("runs")
scalars = tb_firstloss.read_scalars("runs", runs="a*", on_damage="ignore")
scalars.to_csv("scalars.csv")
inputs, batches = tb_firstloss.peek([1, 2, 3])
"""

WRONG = """
from tb_firstloss import FirstLoss, FirstLossCallback, read_first_loss, read_scalars


def step(x: int, y: str) -> float:
    return x / 2


wrapped = FirstLoss("runs").wrap(step)
wrapped("text", "y")
wrapped(1, "y", nonsense=3)
answer: str = wrapped(1, "y")
FirstLoss("runs", tagg="x")
FirstLoss("runs", on_error="ignore")
FirstLossCallback("runs", strategy=None)
FirstLoss("runs").wrap(step, los="a")
read_first_loss("runs").per_exmple
read_scalars("runs", keep="newest")
from tb_firstloss import read_frist_loss
"""
WRONG_LINES = set(range(10, 20))


def mypy(python, file):
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, file.name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    assert done.returncode < 2, done.stdout + done.stderr
    return [
        (int(n), text) for n, text in re.findall(r"^\w+\.py:(\d+): error: (.*)", done.stdout, re.M)
    ]


def pyright(python, file):
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python, file.name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [
        (each["range"]["start"]["line"] + 1, each["message"])
        for each in found
        if each["severity"] == "error"
    ]


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_a_correct_program_has_no_error_and_each_mistake_is_found(checker, python, tmp_path):
    for name, program in (("good", GOOD), ("wrong", WRONG)):
        (tmp_path / f"{name}.py").write_text(program)
    assert checker(python, tmp_path / "good.py") == []
    assert {line for line, _ in checker(python, tmp_path / "wrong.py")} == WRONG_LINES


def test_every_public_name_is_spelled_out_for_type_checkers(python, tmp_path):
    names = [name for name in tb_firstloss.__all__ if not name.startswith("_")]
    lines = [f"import tb_firstloss\nreveal_type(tb_firstloss.{name})" for name in names]
    (tmp_path / "names.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "names.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    revealed = re.findall(r'note: Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == len(names)
    assert "Any" not in revealed
