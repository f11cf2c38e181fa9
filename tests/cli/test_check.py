import contextlib
import json
import re

import numpy as np
import pytest

from tb_firstloss.capture.options import Options
from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.capture.step.result import Captured
from tb_firstloss.cli import main
from tb_firstloss.errors import CaptureWarning, UnexpectedLossError
from tb_firstloss.first_batch import OutputLoss
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
        (["{0}/good", "--expect", "a=2", "--expect", "3"], "--expect: '3' is without a name; give"),
        (["{0}/good", "--expect", "2", "--expect", "3"], "--expect: '2' is without a name; give"),
        (["{0}/good", "--expect", "a=2", "--expect", "a=3"], "--expect: 'a' is there twice; give"),
        (["{0}/good", "--expect", "a=log("], "expect['a']: 'log(' cannot be worked out"),
        (["{0}/good", "--expect", "a=auto"], "expect['a']: 'auto' is for the whole step"),
        (["{0}/good", "--expect", "os.getcwd()"], "expect: 'os.getcwd()' cannot be worked out"),
        (["{0}/good", "--expect", "auto"], "'auto' is for FirstLossCallback and probe"),
        (["{0}/missing"], "no such file"),
        (["{0}/good", "--rtol", "nan"], "rtol: nan"),
    ],
    ids=["mixed", "plain-twice", "same-name", "not-arithmetic-by-name", "auto-by-name",
         "not-arithmetic", "auto", "no-path", "bad-tolerance"],
)  # fmt: skip
def test_misuse_is_exit_code_2_and_one_line(logdir, capsys, arguments, message):
    assert main(["check", *(word.format(logdir) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def record_step(logdir, losses, outputs=(), **options):
    """Records a step's losses and outputs by name."""
    recorder = Recorder(Options(logdir=logdir, **options))
    outputs = {n: OutputLoss(per_example=np.float32(values)) for n, values in dict(outputs).items()}
    losses = {name: np.float32(loss) for name, loss in losses.items()}
    recorder.commit(Captured(losses, outputs), metadata={})


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Runs with several losses: as expected by name, with a number for both, and hostile."""
    logdir = tmp_path_factory.mktemp("steps")
    losses, outputs = {"d_loss": 1.5, "g_loss": 0.75, "cycle": 3.0}, {"d_loss": [1.0, 3.0]}
    record_step(logdir / "named", losses, outputs, expect={"d_loss": 2, "g_loss": 0.7})
    with pytest.warns(CaptureWarning, match="several losses"):
        record_step(logdir / "number", losses, outputs, expect=1.386)
    record_step(logdir / "a=b", {"a=b": 2.0, "x\x1b[31m": 1.0})
    record_step(
        logdir / "hostile\x1b[31m", {"loss": 2.0}, metadata={"expected_loss": [1, "\x1b[31m"]}
    )
    record_step(logdir / "good", {"loss": 2.0}, expect=2)
    return logdir


def table_of(out):
    """The table's rows as lists of words; the words of a label are joined."""
    rows = [line for line in out.split("\n\n")[0].splitlines()[2:] if line]
    return [re.split(r"\s{2,}", row) for row in rows]


def test_each_named_loss_has_a_row_and_so_has_what_nothing_is_expected_of(steps, capsys):
    assert main(["check", str(steps / "named")]) == 0
    assert table_of(capsys.readouterr().out) == [
        ["first_batch: d_loss", "2", "2", "ok"],
        ["first_batch: g_loss", "0.75", "0.7", "ok"],
        ["first_batch: cycle", "3", "no expectation"],
    ]


def test_names_on_the_command_line_replace_the_recorded_expectation(steps, capsys):
    expect = ["--expect", "cycle=1+1", "--expect", "g_loss=3/4"]
    assert main(["check", str(steps / "named"), *expect]) == 1
    out = capsys.readouterr().out
    assert table_of(out) == [
        ["first_batch: d_loss", "2", "no expectation"],
        ["first_batch: g_loss", "0.75", "0.75", "ok"],
        ["first_batch: cycle", "3", "2", "high"],
    ]
    assert "\nfirst_batch: loss 'cycle' 3, expected 2: off by 1 (tolerance 0.2). Usual" in out
    assert main(["check", str(steps / "named"), *expect, "--rtol", "0.5"]) == 0


def test_a_name_may_contain_the_equals_sign(steps, capsys):
    assert main(["check", str(steps / "a=b"), "--expect", "a=b=2"]) == 0
    assert table_of(capsys.readouterr().out) == [
        ["first_batch: a=b", "2", "2", "ok"],
        [r"first_batch: x\x1b[31m", "1", "no expectation"],
    ]


@pytest.mark.parametrize("expect", [[], ["--expect", "1.386"]], ids=["recorded", "given"])
def test_one_number_for_several_losses_is_no_verdict_and_exit_code_2(steps, capsys, expect):
    assert main(["check", str(steps / "number"), *expect]) == 2
    out, err = capsys.readouterr()
    assert table_of(out) == [
        ["first_batch: d_loss", "2", "no expectation"],
        ["first_batch: g_loss", "0.75", "no expectation"],
        ["first_batch: cycle", "3", "no expectation"],
    ]
    assert err == (
        "tb-firstloss: first_batch: several losses ('d_loss', 'g_loss', 'cycle'); give a mapping "
        "such as {'d_loss': 1.386}; on the command line: --expect NAME=LOSS\n"
    )


def test_a_run_without_a_verdict_does_not_hide_the_others(steps, capsys):
    assert main(["check", str(steps)]) == 2
    out, err = capsys.readouterr()
    found = {row[0]: row[-1] for row in table_of(out)}
    assert found == {
        "a=b/first_batch: a=b": "no expectation",
        r"a=b/first_batch: x\x1b[31m": "no expectation",
        "good/first_batch": "ok",
        r"hostile\x1b[31m/first_batch": "no expectation",
        "named/first_batch: d_loss": "ok",
        "named/first_batch: g_loss": "ok",
        "named/first_batch: cycle": "no expectation",
        "number/first_batch: d_loss": "no expectation",
        "number/first_batch: g_loss": "no expectation",
        "number/first_batch: cycle": "no expectation",
    }
    beginnings = [line.removeprefix("tb-firstloss: ")[:48] for line in err.splitlines()]
    assert beginnings == [
        r"hostile\x1b[31m/first_batch: metadata['expected_",
        "number/first_batch: several losses ('d_loss', 'g",
    ]
    assert "\x1b" not in out + err


def test_a_run_that_was_not_judged_weighs_more_than_a_finding(steps):
    assert main(["check", str(steps), "--expect", "9", "--run", "good*"]) == 1
    assert main(["check", str(steps), "--expect", "9", "--run", "good*", "--run", "named*"]) == 2


def test_a_run_without_an_expectation_is_shown_and_exit_code_2(logdir, capsys):
    assert main(["check", str(logdir / "unknown")]) == 2
    out, err = capsys.readouterr()
    assert table_of(out) == [["first_batch", "6", "no expectation"]]
    assert err == (
        "tb-firstloss: first_batch: was recorded without an expectation; give --expect\n"
    )


def test_a_run_without_an_expectation_next_to_others_is_a_row_and_no_finding(logdir, capsys):
    fine, finding = ["--run", "good*", "--run", "unknown*"], ["--run", "high*", "--run", "unknown*"]
    assert main(["check", str(logdir), *fine]) == 0
    assert main(["check", str(logdir), *finding]) == 1
    assert main(["check", str(logdir)]) == 1
    out, err = capsys.readouterr()
    assert out.count("unknown/first_batch     6            no expectation") == 3
    assert err == ""
    assert main(["check", str(logdir), "--json", *fine]) == 0
    _, unknown = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (unknown["kind"], unknown["message"]) == ("no expectation", "")


def test_a_name_that_a_run_does_not_have_is_no_verdict(steps, capsys):
    assert main(["check", str(steps / "good"), "--expect", "g_loss=1"]) == 2
    assert capsys.readouterr().err == (
        "tb-firstloss: first_batch: no loss or output is named 'g_loss'; known: 'loss'\n"
    )


def test_json_has_the_parts_and_what_is_not_judged(steps, capsys):
    assert main(["check", str(steps), "--json", "--run", "n*", "--run", "good*"]) == 2
    good, named, number = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (good["kind"], good["value"], good["parts"]) == ("ok", 2.0, {})
    assert (named["kind"], named["message"]) == (
        "ok",
        "as expected: mean per-example loss of 'd_loss' 2 (2), loss 'g_loss' 0.75 (0.7)",
    )
    assert {name: (part["kind"], part["value"]) for name, part in named["parts"].items()} == {
        "d_loss": ("ok", 2.0),
        "g_loss": ("ok", 0.75),
        "cycle": ("no expectation", 3.0),
    }
    assert named["parts"]["g_loss"]["expected"] == 0.7
    assert number["kind"] == "no expectation"
    assert number["message"].startswith("number/first_batch: several losses")
    assert {part["kind"] for part in number["parts"].values()} == {"no expectation"}
