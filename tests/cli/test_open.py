import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request

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


def test_a_missing_logdir_is_reported_at_once(tmp_path, capsys):
    assert main(["open", str(tmp_path / "missing")]) == 2
    assert f"{tmp_path}/missing: no such directory" in capsys.readouterr().err
