"""Start TensorBoard at the First loss tab.

Examples::

  tb-firstloss open
  tb-firstloss open runs --port 6006
  tb-firstloss open runs --reuse
"""

import argparse
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tb_firstloss.cli.arguments import add_place
from tb_firstloss.contract import PLUGIN_NAME
from tb_firstloss.errors import FirstLossError
from tb_firstloss.text import is_url, printable

_ADDRESS = re.compile(r"^TensorBoard \S+ at (http\S+) ", re.MULTILINE)


_UNTIL_EOF = """
import os, signal, threading
def end():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end, daemon=True).start()
from tensorboard.main import run_main
run_main()
"""
"""TensorBoard until its standard input closes, as it does however its parent ends."""


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
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="use a TensorBoard of LOGDIR that runs already",
    )


def run(options: argparse.Namespace) -> int:
    """Prints the tab's address and serves it until Ctrl-C."""
    if not is_url(options.logdir) and not Path(options.logdir).is_dir():
        raise NotADirectoryError(f"{options.logdir}: no such directory; give a logdir")
    logdir = options.logdir if is_url(options.logdir) else str(Path(options.logdir).absolute())
    if options.reuse and (running := _find_running(logdir, options)):
        print(f"{running}#{PLUGIN_NAME}")
        return 0
    _check_port(options.host, options.port)
    print("Starting TensorBoard …", file=sys.stderr)
    flags = ["--host", options.host, "--port", str(options.port)]
    with serve(logdir, *flags) as (address, process):
        print(f"{address}#{PLUGIN_NAME}", flush=True)
        print("Ctrl-C ends it", file=sys.stderr)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0


def _find_running(logdir: str, options: argparse.Namespace) -> str | None:
    """Returns the address of a TensorBoard that shows a logdir, at the port if one is given."""
    from tensorboard import manager

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for info in manager.get_all():  # a killed one stays listed
        address = f"http://{options.host}:{info.port}{info.path_prefix}/"
        with contextlib.suppress(OSError, ValueError, KeyError):
            with direct.open(f"{address}data/environment", timeout=5) as answer:
                shown = json.load(answer)["data_location"]
            if shown == logdir and options.port in (0, info.port):
                return address
    return None


def _check_port(host: str, port: int) -> None:
    """Raises what TensorBoard would say of an unusable port after its start, which takes long."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]
        raise TensorBoardError(f"{host}:{port}: {reason}; give another --port") from None


@contextlib.contextmanager
def serve(
    logdir: str, *flags: str, command: Sequence[str] = ("-c", _UNTIL_EOF)
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Runs TensorBoard in a child process, which ends with the block; yields address and process.

    Where this process is killed, the pipe to the child's standard input closes, and it ends too.

    Not in this process: there it would import TensorFlow, if that is installed. Not with
    ``tensorboard.manager``: it leaves its servers running and shares them between callers.
    """
    words = [sys.executable, *command, "--logdir", logdir, *flags]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
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
