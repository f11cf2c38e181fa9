"""The command line: imports the called command and runs it.

Results go to stdout, everything else to stderr.
"""

import argparse
import codecs
import difflib
import functools
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tb_firstloss import __version__, errors
from tb_firstloss.cli.exit_codes import FINDING, INTERRUPTED, UNUSABLE
from tb_firstloss.cli.output import printable, say

COMMANDS = {
    "demo": "Train a small network on real digits and show its first loss",
    "show": "Show the first-batch loss of every run below a path",
    "tags": "List every tag of every run below a path",
    "export": "Write scalars as CSV or Parquet",
    "extract": "Write images, audio and text as files",
    "compare": "Compare first losses with a baseline, value by value",
    "check": "Check first losses against what they should be",
    "verify": "Read everything below a path and list the damage",
    "watch": "Print values as they are written, until Ctrl-C",
    "profile": "Show where step 0 spent its time, next to the warm step if there is one",
    "open": "Start TensorBoard at the First loss tab",
    "doctor": "Find what keeps capturing, reading or showing from working, and say how to fix it",
}
"""Each command's summary, here so that only the called command is imported.

A command is a module of `commands` whose docstring begins with the summary, and which has
``add_arguments(parser)`` and ``run(options) -> exit code``. It imports what it needs at its top.
"""

_PLAIN = {"…": "...", "→": "->", "─": "-"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default that of ``sys.argv``, and returns its exit code."""
    _print_anywhere()
    if arguments is None:
        _end_on_signals()
    words = sys.argv[1:] if arguments is None else arguments
    with warnings.catch_warnings():
        warnings.simplefilter("always", errors.FirstLossWarning)
        damage = _show_warnings()
        code = _run(words)
        return FINDING if damage and code == 0 else code


def _end_on_signals() -> None:
    """Makes SIGTERM and a hang-up end a command as an exception does, leaving nothing behind."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores a hang-up
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _run(words: Sequence[str]) -> int:
    try:
        parser = _parser(words)
        if words and words[0] not in COMMANDS and not words[0].startswith("-"):
            near = [f"did you mean {n}?" for n in difflib.get_close_matches(words[0], COMMANDS, 1)]
            parser.error(f"no command {words[0]!r}; {(near or ['--help lists them'])[0]}")
        options = parser.parse_args(words)
        code: int = options.run(options)
        sys.stdout.flush()
    except errors.NoRecordingError as error:
        return _say(error, FINDING)
    except BrokenPipeError:
        # Whatever reads the output (head, less) has closed it. Python would complain once more
        # when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (errors.FirstLossError, OSError, ValueError, MemoryError, RecursionError) as error:
        return _say(error, UNUSABLE)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    return code


class _Parser(argparse.ArgumentParser):
    paths: Any = None  # what completes a path in a shell

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        action = super().add_argument(*names, **options)
        if self.paths and (not action.option_strings or action.dest in ("logdir", "output")):
            vars(action)["complete"] = self.paths  # where shtab looks for it
        return action

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))  # it quotes words that a shell's glob may have made


def _parser(words: Sequence[str] = (), *, paths: Any = None) -> argparse.ArgumentParser:
    """Returns a parser that lists every command and has the arguments of the called one.

    With ``paths``, what completes a path in a shell, it has those of all.
    """
    parser = _Parser(
        prog="tb-firstloss",
        description="The loss of the first training batch, from TensorBoard event files.",
        epilog="tb-firstloss COMMAND --help says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"tb-firstloss {__version__}")
    about = "print what makes a shell complete commands, options and paths"
    parser.add_argument("--completion", choices=("bash", "zsh", "fish"), help=about)
    parser.set_defaults(run=functools.partial(_without_command, parser))
    commands = parser.add_subparsers(metavar="COMMAND")
    called = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        command.paths = paths
        if paths or name == called:
            _load(command, name)
    return parser


def _without_command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Prints a completion script, or the help."""
    if options.completion is None:
        parser.print_help()
        return 0
    from tb_firstloss.reading.tables import import_optional  # NumPy, which help does without

    shtab = import_optional("shtab")
    print(shtab.complete(_parser(paths=shtab.FILE), options.completion))
    return 0


def _load(parser: argparse.ArgumentParser, name: str) -> None:
    module = importlib.import_module(f"tb_firstloss.cli.commands.{name}")
    parser.description, _, details = (module.__doc__ or "").partition("\n")
    parser.epilog = details.strip().replace("::\n\n", ":\n")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def _print_anywhere() -> None:
    """Escapes characters that the output's encoding lacks, instead of failing on them.

    A stream that the caller has closed (``>&-``) is None, and becomes one that goes nowhere.
    """
    codecs.register_error("tb_firstloss", _in_ascii)
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tb_firstloss")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text)
    return plain, error.end


def _say(error: Exception, code: int) -> int:
    ours = isinstance(error, errors.FirstLossError | FileNotFoundError)
    line = str(error) if ours else errors.first_line(error)  # a path may hold line breaks
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        line = f"{os.fspath(error.filename)}: {error.strerror}"
    say(line)
    return code


def _show_warnings() -> list[errors.DamageWarning]:
    """Prints this package's warnings as one line each; the list collects those about damage.

    A cut last record is none: a killed run leaves one, and nothing that was written is missing.
    """
    damage: list[errors.DamageWarning] = []
    show_any = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if isinstance(message, errors.DamageWarning) and not isinstance(
            message, errors.CutRecordWarning
        ):
            damage.append(message)
        if issubclass(category, errors.FirstLossWarning):
            say(message)
        else:
            show_any(message, category, *rest, **named)

    warnings.showwarning = show
    return damage
