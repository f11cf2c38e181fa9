import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tb_firstloss.cli import main
from tb_firstloss.cli.commands import open as open_command


@pytest.mark.slow
def test_open_prints_and_serves_the_tabs_address_and_ends_tensorboard(tmp_path):
    words = [sys.executable, "-m", "tb_firstloss", "open", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            address, _, tab = process.stdout.readline().strip().partition("#")
            assert tab == "tb_firstloss"
            with urllib.request.urlopen(f"{address}data/environment") as response:
                assert json.load(response)["data_location"] == str(tmp_path)
            again = [sys.executable, "-m", "tb_firstloss", "open", "--reuse", tmp_path.name]
            reused = subprocess.run(
                again, cwd=tmp_path.parent, stdout=subprocess.PIPE, text=True, check=True
            )
            assert reused.stdout == f"{address}#{tab}\n"
            port = address.rstrip("/").rpartition(":")[2]
            with (
                pytest.raises(open_command.TensorBoardError, match=f"start: .*{port}"),
                open_command.serve(str(tmp_path), "--host", "localhost", "--port", port),
            ):
                pass
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address)


def descendants(pid):
    found = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return found + [below for child in found for below in descendants(child)]


def goes_on(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_tensorboard_survives_it(tmp_path, number):
    words = [sys.executable, "-m", "tb_firstloss", "open", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline()
        started = descendants(process.pid)
        process.send_signal(number)
        process.wait()
    assert started
    deadline = time.monotonic() + 30
    while left := [pid for pid in started if goes_on(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_used_port_is_named_before_tensorboard_starts(tmp_path, capsys, host):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        assert main(["open", str(tmp_path), "--host", host, "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"tb-firstloss: {host}:{port}: Address already in use; give another --port\n"
    )


def test_a_port_that_cannot_be_is_one_line(tmp_path, capsys):
    assert main(["open", str(tmp_path), "--port", "70000"]) == 2
    assert re.fullmatch(r"tb-firstloss: localhost:70000: .+0-65535.+\n", capsys.readouterr().err)


def test_a_missing_logdir_is_reported_at_once(tmp_path, capsys):
    assert main(["open", str(tmp_path / "missing")]) == 2
    assert f"{tmp_path}/missing: no such directory" in capsys.readouterr().err
