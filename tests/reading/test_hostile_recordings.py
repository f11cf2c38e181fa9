"""Recordings made to mislead or to exhaust their reader: one line each, and no neighbour hidden."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import tb_firstloss
from tb_firstloss import FirstBatch, OutputLoss, contract, errors
from tests.helpers.event_files import content, event, floats, frame, shaped, tensor

NAME = "events.out.tfevents.1700000000.host.1.0" + contract.FILE_SUFFIX
VALUES = np.float32([1, 2, 4])
GIBIBYTE = [1 << 28]


def exact(tag, proto):
    return frame(event(tensor(f"first_batch/tensors/{tag}", proto, plugin_name="tb_firstloss")))


def record(run_dir, values=VALUES, *, change=lambda facts: None, extra=b"", stored=None):
    """Writes a recording whose manifest may lie, and whose values may be stored otherwise."""
    outputs = {} if values is None else {"y": OutputLoss(per_example=values)}
    first = FirstBatch(run="r", step=0, wall_time=1.0, losses={}, outputs=outputs)
    recording = contract.encode(first, tag="first_batch", recording_id="id")
    facts = json.loads(recording.manifest)
    change(facts)
    stored = stored or content(list(VALUES.shape), VALUES, 1)
    manifest = shaped(7, [], string_val=[json.dumps(facts).encode()])
    run_dir.mkdir(parents=True, exist_ok=True)
    data = extra + (b"" if values is None else exact("outputs/y/per_example", stored))
    (run_dir / NAME).write_bytes(data + exact("manifest", manifest))
    return run_dir


def claim(**facts):
    """Returns what changes the manifest's entry of the values."""
    return lambda manifest: manifest["outputs"][0]["per_example"].update(facts)


BOMBS = {
    "unnamed": {
        "extra": b"".join(exact(f"x{i}", floats(GIBIBYTE, [1.0])) for i in range(4)),
    },
    "unnamed strings": {"extra": exact("x", shaped(7, [1 << 27], string_val=[b"a"]))},
    "named, of another shape": {"stored": floats(GIBIBYTE, [1.0])},
    "a string for a number": {"stored": shaped(7, [1 << 27], string_val=[b"a"])},
}

MEASURE = """
import sys, warnings
from tb_firstloss.cli.main import main
import tb_firstloss, tb_firstloss.comparison, tb_firstloss.reading.logdir
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line)
quiet, *arguments = sys.argv[1:]
main([*arguments[:-1], quiet])
before = peak()
main(arguments)
print("MiB", (peak() - before) // 1024)
"""


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("command", ["show", "verify", "check --expect 2", "compare {logdir}/good"])
def test_a_bomb_costs_no_memory_and_hides_no_neighbour(tmp_path, bomb, command):
    for logdir in ("quiet", "armed"):
        record(tmp_path / logdir / "good")
    record(tmp_path / "armed" / "bomb", **BOMBS[bomb])
    words = command.format(logdir=tmp_path / "quiet").split()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "quiet", *words, tmp_path / "armed"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split("MiB")[1]) < 100
    assert ("good" in done.stdout) == (command != "verify")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("read", [tb_firstloss.read_first_loss, tb_firstloss.read_first_losses])
def test_arrays_above_the_cap_are_refused_unread(tmp_path, read):
    record(tmp_path)
    assert read(tmp_path, max_tensor_bytes=12)
    if read is tb_firstloss.read_first_loss:
        with pytest.raises(errors.TensorTooLargeError, match="12 bytes exceed max_tensor_bytes=11"):
            read(tmp_path, max_tensor_bytes=11)
    else:
        with pytest.warns(errors.DamageWarning, match="12 bytes exceed max_tensor_bytes=11"):
            assert not read(tmp_path, max_tensor_bytes=11)


def test_values_stored_as_one_are_read_within_the_cap(tmp_path):
    record(tmp_path, np.full(1000, 2.5, np.float32), stored=floats([1000], [2.5]))
    first = tb_firstloss.read_first_loss(tmp_path, max_tensor_bytes=4000)
    assert first.per_example.tolist() == [2.5] * 1000
    with pytest.raises(errors.TensorTooLargeError, match="4000 bytes"):
        tb_firstloss.read_first_loss(tmp_path, max_tensor_bytes=3999)


def test_values_stored_as_one_share_the_cap(tmp_path):
    def name_twice(manifest):
        (output,) = manifest["outputs"]
        entry = {**output["per_example"], "tag": "first_batch/tensors/again"}
        manifest["outputs"].append({**output, "name": "again", "per_example": entry})

    same = floats([1000], [2.5])
    values = np.full(1000, 2.5, np.float32)
    record(tmp_path, values, change=name_twice, stored=same, extra=exact("again", same))
    with pytest.raises(errors.TensorTooLargeError, match="again"):
        tb_firstloss.read_first_loss(tmp_path, max_tensor_bytes=7999)


LIES = {
    "mean": lambda m: m["outputs"][0]["statistics"].update(mean=0.001),
    "step": lambda m: m.update(step="<b>0</b>"),
    "shape": claim(shape=[True]),
    "dtype": claim(dtype="O"),
    "deep": lambda m: m.update(metadata=json.loads('{"a":' * 200 + "1" + "}" * 200)),
}


@pytest.mark.parametrize("lie", LIES)
def test_verify_lists_a_manifest_that_lies(tmp_path, lie):
    path = record(tmp_path / "lie", change=LIES[lie]) / NAME
    record(tmp_path / "good")
    (damage,) = tb_firstloss.verify(tmp_path)
    assert (damage.path, damage.end <= path.stat().st_size) == (str(path), True)
    assert "manifest" in str(damage)
    assert "\n" not in str(damage)


def test_a_false_mean_is_warned_of_and_the_true_one_returned(tmp_path):
    record(tmp_path, change=LIES["mean"])
    with pytest.warns(errors.DamageWarning, match="statistics of 'y' are not those"):
        assert tb_firstloss.read_first_loss(tmp_path).mean == pytest.approx(7 / 3)


def test_values_that_are_there_count_whatever_the_manifest_leaves_out(tmp_path):
    def leave_out(manifest):
        claim(left_out=True)(manifest)
        LIES["mean"](manifest)

    record(tmp_path, change=leave_out)
    with pytest.warns(errors.DamageWarning, match="statistics of 'y' are not those"):
        first = tb_firstloss.read_first_loss(tmp_path)
    assert (first.mean, first.per_example.tolist()) == (pytest.approx(7 / 3), [1, 2, 4])


def test_memory_that_ends_in_one_recording_hides_no_other(tmp_path):
    record(tmp_path / "good")
    record(tmp_path / "large", np.zeros(3 << 26, np.float32), stored=floats([3 << 26], [0.0]))
    script = (
        "import resource, sys, tb_firstloss\n"
        "tb_firstloss.read_first_losses(sys.argv[1] + '/good')\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "print(*tb_firstloss.read_first_losses(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["good"]
    assert "large" in done.stderr
    assert "memory" in done.stderr


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "next to another without a loss"])
def test_a_recording_without_a_loss_does_not_count_next_to_one_with_it(tmp_path, others):
    for i in range(1 + others):
        record(tmp_path / f"first_batch-no-loss-{i}", None)
    if others:
        with pytest.raises(errors.SeveralRecordingsError, match="2 recordings"):
            tb_firstloss.read_first_loss(tmp_path)
    else:
        assert tb_firstloss.read_first_loss(tmp_path).is_empty
    record(tmp_path / "first_batch")
    assert tb_firstloss.read_first_loss(tmp_path).run == "first_batch"
    assert len(tb_firstloss.read_first_losses(tmp_path)) == 2 + others
    record(tmp_path / "second_batch")
    with pytest.raises(errors.SeveralRecordingsError):
        tb_firstloss.read_first_loss(tmp_path)


@pytest.mark.parametrize("name", [b"\xe9t\xe9", b"a\nb\x1b[31m"], ids=["undecodable", "escapes"])
def test_a_table_takes_a_run_of_any_name(tmp_path, name):
    run = os.fsdecode(name)
    record(tmp_path / run)
    found = tb_firstloss.read_first_losses(tmp_path)
    assert list(found) == [run]
    (shown,) = found.to_pandas()["run"]
    assert shown == (r"\udce9t\udce9" if "\udce9" in run else run)
    assert all(line.isprintable() for line in repr(found).split("\n"))


def test_a_tag_of_any_name_makes_one_line(tmp_path):
    record(tmp_path, change=claim(tag="a\nb\x1b[31m"))
    with pytest.raises(errors.IncompleteRecordingError, match=r"a\\nb\\x1b\[31m is missing$"):
        tb_firstloss.read_first_loss(tmp_path)
