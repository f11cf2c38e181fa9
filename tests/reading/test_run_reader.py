"""One run's values cost what is asked for, whatever they claim to be."""

import subprocess
import sys

import numpy as np

import tb_firstloss
from tests.helpers.damaged_files import FILE_NAME
from tests.helpers.event_files import event, floats, shaped, simple, tensor, write

BOMBS = [
    tensor("floats", floats([2**28], [1.5]), plugin_name="scalars"),
    tensor("strings", shaped(7, [2**26], string_val=[b"a"])),
    tensor("bytes", shaped(4, [2**15, 2**15], int_val=[7])),
]


def test_a_value_that_stands_for_all_can_be_written_to(tmp_path):
    strings = shaped(7, [2], string_val=[b"a"])
    write(tmp_path / FILE_NAME, event(tensor("x", floats([2, 3], [1.5])), tensor("s", strings)))
    for datum in (*tb_firstloss.iter_tensors(tmp_path), next(tb_firstloss.follow(tmp_path))):
        assert datum.value.flags.owndata
        datum.value[0] = datum.value[1]
    assert np.full((2, 3), 1.5, np.float32).tobytes() == datum.value.tobytes()


def test_what_nobody_asked_for_is_never_filled_in(tmp_path):
    """In less memory than any of the tensors takes; one that was asked for hides no other."""
    write(tmp_path / FILE_NAME, *(event(*BOMBS, simple("x", i), step=i) for i in range(40)))
    script = """
import resource, sys
import tb_firstloss as t
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
t.verify(sys.argv[1])  # imports what it needs
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
print(len(t.verify(sys.argv[1])), t.read_scalars(sys.argv[1]).value.tolist() == list(range(40)))
print(len(list(t.iter_tensors(sys.argv[1], tags="x"))))
found = [d.tag for d in t.iter_tensors(sys.argv[1], steps=3, on_damage="ignore")]
print(found)
try:
    list(t.iter_tensors(sys.argv[1], on_damage="raise"))
except t.errors.UndecodableError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[:3] == ["0 True", "40", "['x']"]
    assert "cannot decode an intact record: floats: Unable to allocate 1.00 GiB" in lines[3]
