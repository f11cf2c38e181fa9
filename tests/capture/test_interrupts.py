"""Training interrupted at random moments leaves nothing, and records when it goes on.

TB_FIRSTLOSS_INTERRUPTS=1000 makes as many trials per way and kind of moment.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import interrupts

COUNT = int(os.environ.get("TB_FIRSTLOSS_INTERRUPTS", "10"))


def trials(way, moment, count):
    """Makes the trials, in a new process after each that breaks TensorFlow; returns all of them."""
    done, first = [], 0
    while first < count:
        arguments = ["-m", "tests.helpers.interrupts", way, moment, str(first), str(count)]
        process = subprocess.run(
            [sys.executable, *arguments],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode <= 0, process.stderr[-3000:]
        lines = [json.loads(line) for line in process.stdout.splitlines() if line[:1] == "{"]
        first = lines[-1].get("begins", lines[-1].get("number")) + 1
        done += [line for line in lines if "came" in line]
        if process.returncode:
            done.append({"came": True, "wrong": [], "broken": f"crash {process.returncode}"})
    return done


@pytest.mark.slow
@pytest.mark.parametrize("moment", interrupts.MOMENTS)
@pytest.mark.parametrize("way", interrupts.WAYS)
def test_an_interrupt_leaves_nothing_and_the_next_step_is_recorded(way, moment):
    done = trials(way, moment, COUNT)
    assert [trial for trial in done if trial["wrong"]] == []
    assert sum(trial["came"] for trial in done) >= 0.4 * COUNT
    # An exception can strike inside TensorFlow's own code too: a few in 200 without us.
    broken = [trial["broken"] for trial in done if "broken" in trial]
    print(f"{way}, {moment}: {len(done)} trials, broken by TensorFlow: {broken}")
    assert len(broken) <= 2 + 0.05 * COUNT
