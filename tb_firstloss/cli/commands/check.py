"""Check first losses against what they should be.

Exit code 1 if one is not as expected: high, low, non-finite, or constant. Exit code 2 if nothing
is expected of any run, or what is expected of one cannot be compared: one number for several
losses, or an unknown name. A run without any loss is not judged; exit code 1 if there is no other.

Examples::

  tb-firstloss check runs --expect 'log(10)'
  tb-firstloss check runs/demo --rtol 0.02
  tb-firstloss check runs/gan --expect 'd_loss=2*log(2)' --expect 'g_loss=log(2)'
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from tb_firstloss import checks
from tb_firstloss.cli.arguments import add_shared, add_tolerances
from tb_firstloss.cli.exit_codes import FINDING, UNUSABLE
from tb_firstloss.cli.output import Cell, Row, print_json, print_table, printable, say
from tb_firstloss.cli.recordings import read_recordings
from tb_firstloss.first_batch import FirstBatch

_NO_EXPECTATION, _NO_LOSS = "no expectation", "no loss"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_shared(parser, "paths")
    parser.add_argument(
        "--expect",
        action="append",
        metavar="LOSS",
        help="a number or an expression such as 'log(10)'; for several losses NAME=LOSS, once per "
        "loss (default: what was expected in training)",
    )
    add_tolerances(parser, rtol=0.1)
    add_shared(parser, "--run", "--json", "--quiet")


def run(options: argparse.Namespace) -> int:
    """Prints a verdict per run, or per loss of a run with several."""
    # All of the usage before anything is read, so that an error below is about its run.
    options.expect = None if options.expect is None else _parse(options.expect)
    checks.check_tolerances(options.rtol, options.atol)
    judged = [_Judged(first, *_judge(first, options)) for first in read_recordings(options)]
    if options.json:
        print_json([each.to_json() for each in judged])
    else:
        _print(judged)
    verdicts = [each.verdict for each in judged if each.verdict is not None]
    problems = [each.problem for each in judged if each.problem]
    if not verdicts and not problems:
        free = [each.first.run for each in judged if not each.first.is_empty]
        problems = [f"{run}: was recorded without an expectation; give --expect" for run in free]
    for problem in problems:
        say(problem)
    if problems:
        return UNUSABLE
    return 0 if verdicts and all(verdict.ok for verdict in verdicts) else FINDING


def _parse(words: Sequence[str]) -> float | dict[str, float]:
    """Returns what --expect says: a number, or a number per name."""
    if len(words) == 1 and "=" not in words[0]:
        return checks.parse_expectations(words[0])
    expect = {}
    for word in words:
        name, equals, loss = word.rpartition("=")  # only the name may contain more of them
        if not equals:
            raise ValueError(f"--expect: {word!r} is without a name; give NAME=LOSS for each loss")
        if name in expect:
            raise ValueError(f"--expect: {name!r} is there twice; give one LOSS per name")
        expect[name] = loss
    return checks.parse_expectations(expect)


@dataclasses.dataclass(frozen=True)
class _Judged:
    """A run and its verdict, or why there is none: "" where nothing is expected."""

    first: FirstBatch
    verdict: checks.Verdict | None
    problem: str

    @property
    def parts(self) -> dict[str, tuple[float, checks.Verdict | None]]:
        """Each loss and output with its verdict, if any; empty if one verdict is about them all."""
        parts = {} if self.verdict is None else self.verdict.parts
        if self.verdict is not None and not parts:
            return {}
        values = checks.values_by_name(self.first)
        return {name: (value, parts.get(name)) for name, value in values.items()}

    def rows(self) -> list[Row]:
        run, parts = self.first.run, self.parts
        if self.first.is_empty:
            return [[run, "", "", Cell(_NO_LOSS, "yellow")]]
        if self.verdict is not None and not parts:
            return [_row(run, self.verdict.value, self.verdict)]
        return [
            _row(run if len(parts) == 1 else f"{run}: {name}", *part)
            for name, part in parts.items()
        ]

    def to_json(self) -> dict[str, Any]:
        facts = _facts(self.verdict, message=self.problem)
        if self.first.is_empty:
            facts["kind"] = _NO_LOSS
        parts = {name: _facts(part, value=value) for name, (value, part) in self.parts.items()}
        return {"run": self.first.run, **facts, "parts": parts}


def _judge(first: FirstBatch, options: argparse.Namespace) -> tuple[checks.Verdict | None, str]:
    if first.is_empty:
        return None, ""
    tolerances = {"rtol": options.rtol, "atol": options.atol}
    try:
        if options.expect is not None:
            return checks.check(first, options.expect, **tolerances), ""
        return checks.check_recorded(first, **tolerances), ""
    except (TypeError, ValueError) as error:
        named = isinstance(options.expect, dict)
        return None, str(error) if named else f"{error}; on the command line: --expect NAME=LOSS"


def _row(label: str, value: float, verdict: checks.Verdict | None) -> Row:
    if verdict is None:
        return [label, f"{value:.6g}", "", Cell(_NO_EXPECTATION, "yellow")]
    colour = "green" if verdict.ok else "red"
    return [label, f"{value:.6g}", f"{verdict.expected:.6g}", Cell(verdict.kind, colour)]


def _facts(verdict: checks.Verdict | None, **otherwise: Any) -> dict[str, Any]:
    return {"kind": _NO_EXPECTATION, **otherwise} if verdict is None else vars(verdict)


def _print(judged: list[_Judged]) -> None:
    rows = [row for each in judged for row in each.rows()]
    print_table(["run", "loss", "expected", "verdict"], rows)
    for each in judged:
        if each.verdict is not None and not each.verdict.ok:
            print(f"\n{printable(f'{each.first.run}: {each.verdict}')}")
