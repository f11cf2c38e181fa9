"""Start TensorBoard at the First loss tab.

Examples::

  tb-firstloss open
  tb-firstloss open runs --port 6006
"""

import argparse
import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tb_firstloss.cli.arguments import add_place
from tb_firstloss.contract import PLUGIN_NAME
from tb_firstloss.errors import FirstLossError
from tb_firstloss.text import is_url, printable

_ADDRESS = re.compile(r"^TensorBoard \S+ at (http\S+) ", re.MULTILINE)


class TensorBoardError(FirstLossError):
    """TensorBoard did not start; the message is the last line that it printed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_place(parser, "logdir", "logdir to show")
    parser.add_argument(
        "--port", type=int, default=0, help="port to listen on (default: any free one)"
    )
    parser.add_argument(
        "--host", default="localhost", help="address to listen on (default: localhost)"
    )


def run(options: argparse.Namespace) -> int:
    """Prints the tab's address and serves it until Ctrl-C."""
    if not is_url(options.logdir) and not Path(options.logdir).is_dir():
        raise NotADirectoryError(f"{options.logdir}: no such directory; give a logdir")
    print("Starting TensorBoard …", file=sys.stderr)
    # A service manager or notebook ends this process with SIGTERM; TensorBoard must end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    flags = ["--host", options.host, "--port", str(options.port)]
    with serve(options.logdir, *flags) as (address, process):
        print(f"{address}#{PLUGIN_NAME}", flush=True)
        print("Ctrl-C ends it", file=sys.stderr)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0


@contextlib.contextmanager
def serve(
    logdir: str, *flags: str, command: Sequence[str] = ("-m", "tensorboard.main")
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Runs TensorBoard in a child process, which ends with the block; yields address and process.

    Not in this process: there it would import TensorFlow, if that is installed. Not with
    ``tensorboard.manager``: it leaves its servers running and shares them between callers.
    """
    words = [sys.executable, *command, "--logdir", logdir, *flags]
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            yield _await_address(process), process
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        if found := _ADDRESS.search(line):
            # Unread, what it prints later would fill the pipe and block it.
            threading.Thread(target=_pass_on, args=(process.stderr,), daemon=True).start()
            return found[1].rstrip("/") + "/"
        said = line.strip() or said
    raise TensorBoardError(f"TensorBoard did not start: {said or 'it printed nothing'}")


def _pass_on(lines: Iterable[str]) -> None:
    with contextlib.suppress(ValueError):  # at exit, Python may close stderr first
        sys.stderr.writelines(f"{printable(line.rstrip())}\n" for line in lines)
