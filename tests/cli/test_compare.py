import json
import re

import numpy as np
import pytest

from tb_firstloss.cli import main
from tests.helpers.recorded import record, write_losses

VALUES = np.linspace(1, 2, 8, dtype=np.float32)
PRINTS = {"batch": "a" * 64, "weights": "b" * 64}


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """A baseline, an identical run, and one whose last value is 0.5 larger."""
    logdir = tmp_path_factory.mktemp("runs")
    for name in ("before", "again"):
        record(logdir / name, VALUES, total=1.5, metadata={"fingerprint": PRINTS, "code": "old"})
    changed = VALUES.copy()
    changed[-1] += 0.5
    facts = {"fingerprint": PRINTS, "code": "new"}
    record(logdir / "after", changed, total=1.5, metadata=facts)
    return logdir


def test_the_same_recording_is_identical(logdir, capsys):
    assert main(["compare", str(logdir / "before"), str(logdir / "again")]) == 0
    out = capsys.readouterr().out
    assert out == f"{logdir}/again/first_batch: identical, baseline {logdir}/before\n"


def test_a_difference_is_measured_located_and_explained(logdir, capsys):
    assert main(["compare", str(logdir / "before"), str(logdir / "after")]) == 1
    out = capsys.readouterr().out
    rows = {line[:11].strip(): line.split() for line in out.splitlines()[4:]}
    assert rows["loss"][:2] == ["loss", "identical"]
    assert " ".join(rows["per example"][2:]) == "different 1 of 8 0.5 0.25 [7] 2 → 2.5"
    assert "Where it comes from: code or randomness" in out
    assert "Also different: code: old → new" in out


def test_a_tolerance_lets_it_pass(logdir, capsys):
    arguments = ["compare", str(logdir / "before"), str(logdir / "after")]
    assert main([*arguments, "--rtol", "0.25"]) == 0
    assert "within tolerance" in capsys.readouterr().out
    assert main([*arguments, "--atol", "0.4"]) == 1


def test_many_runs_are_compared_with_one_baseline(logdir, capsys):
    assert main(["compare", str(logdir / "before"), str(logdir), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(row["run"].split("/")[-2], row["agreement"]) for row in found] == [
        ("after", "different"),
        ("again", "identical"),
        ("before", "identical"),
    ]
    assert found[0]["outputs"]["loss"]["worst"] == [{"index": [7], "baseline": 2.0, "value": 2.5}]
    assert main(["compare", str(logdir / "before"), str(logdir), "--run", "a[!f]*"]) == 0


def test_without_fingerprints_it_says_how_to_record_them(logdir, tmp_path, capsys):
    record(tmp_path, VALUES + 1, total=1.5)
    assert main(["compare", str(logdir / "before"), str(tmp_path)]) == 1
    assert "data, weights, code or randomness (record with fingerprint=True to find out" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}", "{0}/after"], "3 recordings (after/first_batch, again/first_batch, before/"),
        (["{0}/missing", "{0}/after"], "missing: no such file"),
        (["{0}/before", "{0}/missing"], "missing: no such file"),
        (["{0}/before", "{0}/after", "--rtol", "-1"], "rtol: -1"),
    ],
    ids=["several-baselines", "no-baseline", "no-run", "negative-tolerance"],
)
def test_misuse_is_exit_code_2_and_one_line(logdir, capsys, arguments, message):
    assert main(["compare", *(word.format(logdir) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_a_single_path_is_wrong_usage(logdir):
    with pytest.raises(SystemExit) as caught:
        main(["compare", str(logdir / "before")])
    assert caught.value.code == 2


def table_of(capsys, *paths):
    """Compares, and returns the agreement and the largest difference by the row's name."""
    main(["compare", *map(str, paths), "--json"])
    main(["compare", *map(str, paths)])
    _, _, text = capsys.readouterr().out.partition("──\n")
    rows, _, notes = text.partition("\n\n")
    cells = (re.split("  +", line) for line in rows.splitlines())
    return {row[0]: (row[1], row[-1]) for row in cells}, notes


def test_several_losses_are_compared_by_name(tmp_path, capsys):
    for name, losses in (("a", {"d": 1.0, "g": 0.5}), ("b", {"g": 0.75, "d": 1.0, "c": 2.0})):
        write_losses(tmp_path / name, losses)
    rows, notes = table_of(capsys, tmp_path / "a", tmp_path / "b")
    assert rows == {
        "loss: d": ("identical", "identical"),
        "loss: g": ("different", "0.5 → 0.75"),
        "loss: c": ("different", "the baseline has no such loss"),
    }
    assert "Also different: names of the losses: d, g → g, d, c" in notes


def test_only_losses_of_two_names_are_compared_with_each_other(tmp_path, capsys):
    write_losses(tmp_path / "a", {"loss": 1.0}, {"loss": [1.0, 2.0]})
    write_losses(tmp_path / "b", {"total_loss": 1.5}, {"dense": [1.0, 2.0]})
    rows, notes = table_of(capsys, tmp_path / "a", tmp_path / "b")
    assert rows == {
        "loss": ("different", "1 → 1.5"),
        "per example": ("identical", "identical"),
    }
    assert "Also different: names of the losses: loss → total_loss" in notes
    assert "Also different: names of the outputs: loss → dense" in notes


@pytest.mark.slow
def test_demo_runs_distinguish_data_weights_and_code(tmp_path, capsys):
    changes = {
        "base": [],
        "same": [],
        "data": ["--data-seed", "1"],
        "weights": ["--weight-seed", "1"],
        "loss": ["--loss", "squared-error"],
    }
    for name, flags in changes.items():
        assert main(["demo", "--logdir", str(tmp_path / name), *flags, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "same")]) == 0
    assert "identical" in capsys.readouterr().out
    causes = {"data": "data", "weights": "weights", "loss": "code or randomness"}
    for name, cause in causes.items():
        assert main(["compare", str(tmp_path / "base"), str(tmp_path / name)]) == 1
        out = capsys.readouterr().out
        assert f"Where it comes from: {cause}\n" in out
    assert "Also different: loss_function: cross-entropy → squared-error" in out
