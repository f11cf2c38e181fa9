"""Reading the bytes of a file, with what each operating system offers."""

import subprocess
import sys

from tests.helpers.damaged_files import FILE_NAME, INTACT, VALUES
from tests.reading.test_recordings import record

WITHOUT_POSIX = """
import os, sys
sys.modules["resource"] = None
for name in ("pread", "preadv", "O_NONBLOCK", "O_CLOEXEC"):
    vars(os).pop(name, None)
import tb_firstloss as t
logdir = sys.argv[1]
print(len(list(t.iter_tensors(logdir, tags="tag_*"))), len(t.read_scalars(logdir, tags="tag_*")))
print(len(list(t.iter_events(logdir, runs="."))), next(t.follow(logdir, tags="tag_*")).step)
print(len(t.verify(logdir)), len(t.read_first_losses(logdir)), t.read_first_loss(logdir + "/7").run)
"""


def test_reading_needs_nothing_that_windows_lacks(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(INTACT + b"\xff" * 9)
    for number in range(20):  # more than are read before threads are considered
        record(tmp_path / str(number))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_POSIX, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    expected = f"{len(VALUES)} {len(VALUES)}\n{len(VALUES) + 1} 1\n1 20 7\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
