import contextlib
import json

import numpy as np
import pytest

from tb_firstloss.cli import main
from tb_firstloss.errors import UnexpectedLossError
from tests.helpers.recorded import record


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """Three runs: as expected, too high, and without an expectation."""
    logdir = tmp_path_factory.mktemp("runs")
    record(logdir / "good", [2.2, 2.4], total=9.0, expect="log(10)")
    with contextlib.suppress(UnexpectedLossError):
        record(logdir / "high", [4.0, 6.0], total=9.0, expect=2)
    record(logdir / "unknown", [np.nan, 6.0])
    return logdir


def test_a_loss_as_expected_is_exit_code_0(logdir, capsys):
    assert main(["check", str(logdir / "good"), "--expect", "log(10)"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split() == ["first_batch", "2.3", "2.30259", "ok"]


def test_the_expectation_of_training_is_the_default(logdir, capsys):
    assert main(["check", str(logdir / "good")]) == 0
    assert main(["check", str(logdir / "high")]) == 1
    assert (
        "mean per-example loss 5, expected 2: off by 3 (tolerance 0.2)" in capsys.readouterr().out
    )


def test_one_finding_among_many_runs_is_exit_code_1(logdir, capsys):
    assert main(["check", str(logdir), "--expect", "2.3", "--json"]) == 1
    verdicts = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [(v["run"].partition("/")[0], v["kind"]) for v in verdicts] == [
        ("good", "ok"),
        ("high", "high"),
        ("unknown", "non-finite"),
    ]
    assert main(["check", str(logdir), "--expect", "2.3", "--run", "good*"]) == 0


def test_tolerances_are_respected(logdir):
    arguments = ["check", str(logdir / "high"), "--expect", "4"]
    assert main(arguments) == 1
    assert main([*arguments, "--rtol", "0.25"]) == 0
    assert main([*arguments, "--rtol", "0", "--atol", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}/unknown"], "was recorded without an expectation; give --expect"),
        (["{0}/good", "--expect", "os.getcwd()"], "expect: 'os.getcwd()' cannot be worked out"),
        (["{0}/good", "--expect", "auto"], "'auto' is for FirstLossCallback and probe"),
        (["{0}/missing"], "no such file"),
        (["{0}/good", "--rtol", "nan"], "rtol: nan"),
    ],
    ids=["nothing-expected", "not-arithmetic", "auto", "no-path", "bad-tolerance"],
)
def test_misuse_is_exit_code_2_and_one_line(logdir, capsys, arguments, message):
    assert main(["check", *(word.format(logdir) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
