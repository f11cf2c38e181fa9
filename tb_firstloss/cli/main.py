"""The command line, one module a command.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import codecs
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from tb_firstloss import __version__
from tb_firstloss.cli.exit_codes import FINDING, INTERRUPTED, UNUSABLE
from tb_firstloss.errors import (
    DamageWarning,
    FirstLossError,
    FirstLossWarning,
    NoRecordingError,
    first_line,
)

COMMANDS = (
    "demo",
    "show",
    "tags",
    "export",
    "compare",
    "check",
    "verify",
    "watch",
    "profile",
    "open",
    "doctor",
)
"""Modules of `commands`; each has ``add_arguments(parser)`` and ``run(options) -> exit code``."""

_PLAIN = {"…": "...", "→": "->", "─": "-"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: Words after the program's name; None takes them from ``sys.argv``.
    """
    _print_anywhere()
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", FirstLossWarning)
        damage = _show_warnings()
        code = _run(options)
        return FINDING if damage and code == 0 else code


def _run(options: argparse.Namespace) -> int:
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except NoRecordingError as error:
        return _say(error, FINDING)
    except BrokenPipeError:
        # The reader of our output (head, less) has had enough. Python would complain once more
        # when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (FirstLossError, OSError, ValueError) as error:
        return _say(error, UNUSABLE)
    except KeyboardInterrupt:
        print("tb-firstloss: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tb-firstloss",
        description="The loss of the first training batch, from TensorBoard event files.",
        epilog="tb-firstloss COMMAND --help says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"tb-firstloss {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"tb_firstloss.cli.commands.{name}")
        summary, _, details = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip("."),
            description=summary,
            epilog=details.strip().replace("::\n\n", ":\n"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _print_anywhere() -> None:
    """Makes output that the terminal's encoding lacks readable instead of an error."""
    codecs.register_error("tb_firstloss", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tb_firstloss")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text)
    return plain, error.end


def _say(error: Exception, code: int) -> int:
    line = first_line(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        line = f"{os.fspath(error.filename)}: {error.strerror}"
    print(f"tb-firstloss: {line}", file=sys.stderr)
    return code


def _show_warnings() -> list[DamageWarning]:
    """Makes our warnings one line each on stderr; the list fills with those about damage."""
    damage: list[DamageWarning] = []
    show_any = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if isinstance(message, DamageWarning):
            damage.append(message)
        if issubclass(category, FirstLossWarning):
            print(f"tb-firstloss: {message}", file=sys.stderr)
        else:
            show_any(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    return damage
