"""The live tail: each record once, whatever happens to the file in between."""

import os
import random
import threading
from pathlib import Path

import pytest

import tb_firstloss
from tb_firstloss import errors
from tests.helpers.event_files import event, floats, frame, header, simple, tensor

NAME = "events.out.tfevents.1.host"


def record(i):
    return frame(event(simple("x", i), step=i))


class Script(threading.Event):
    """Does one thing to the files each time the follower finds nothing new, then stops it."""

    def __init__(self, actions):
        super().__init__()
        self.actions = iter(actions)

    def wait(self, timeout=None):
        action = next(self.actions, self.set)
        action()


def play(path, *actions, **options):
    """Returns the steps yielded while the actions happen one after the other."""
    options = {"on_damage": "raise", **options}
    stop = Script(actions)
    return [d.step for d in tb_firstloss.follow(path, poll_seconds=0, stop=stop, **options)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / NAME


def append(path, data):
    def action():
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    return action


def put(path, data):
    """Replaces the file by another one: another inode."""

    def action():
        temporary = path.with_name("temporary")
        temporary.write_bytes(data)
        temporary.replace(path)

    return action


def rewrite(path, data):
    """Truncates and writes the same file: the same inode."""
    return lambda: path.write_bytes(data)


def test_a_file_that_grows_byte_by_byte_gives_each_record_once(engine, path):
    data = b"".join(map(record, range(5)))
    grow = [append(path, data[i : i + 1]) for i in range(len(data))]
    assert play(path.parent, *grow) == list(range(5))


@pytest.mark.parametrize("seed", range(5))
def test_any_split_of_the_writes_gives_each_record_once(engine, path, seed):
    rng = random.Random(seed)
    data = b"".join(map(record, range(40)))
    cuts = sorted(rng.sample(range(len(data)), 25))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    assert play(path.parent, *(append(path, piece) for piece in pieces)) == list(range(40))


def test_the_path_need_not_exist_yet(path):
    assert play(path.parent.parent / "later", lambda: None) == []
    assert play(path, append(path, record(0))) == [0]


def test_new_runs_and_new_files_of_a_run_are_found(tmp_path):
    first, second, other = (
        tmp_path / "a" / NAME,
        tmp_path / "a" / "events.out.tfevents.2.host",
        tmp_path / "b" / NAME,
    )
    actions = [
        append(first, record(0)),
        append(second, record(1)),
        append(other, record(2)),
        append(first, record(3)),  # two files of one run may grow at once
        append(second, record(4)),
    ]
    assert play(tmp_path, *actions) == [0, 1, 2, 3, 4]
    assert play(tmp_path, *actions, runs="b") == [2, 2]


def test_a_replaced_file_is_read_anew(engine, path):
    old, new = record(1) + record(2), record(3) + record(2)
    assert play(path.parent, append(path, old), put(path, new)) == [1, 2, 3, 2]


@pytest.mark.parametrize("count", [1, 2, 3], ids=["shorter", "as long", "longer"])
def test_a_file_rewritten_in_place_is_read_anew(engine, path, count):
    new = b"".join(record(10 + i) for i in range(count))
    steps = play(path.parent, append(path, record(1) + record(2)), rewrite(path, new))
    assert steps == [1, 2, *range(10, 10 + count)]


def test_a_truncated_file_continues_after_what_is_left(engine, path):
    def truncate():
        os.truncate(path, len(record(1) + record(2)))

    steps = play(
        path.parent,
        append(path, record(1) + record(2) + record(3)),
        truncate,
        append(path, record(4)),
    )
    assert steps == [1, 2, 3, 4]


def test_a_removed_file_is_read_when_it_comes_back(path):
    def remove():
        path.unlink()

    assert play(path.parent, append(path, record(1)), remove, append(path, record(2))) == [1, 2]


def test_rotation_into_a_new_file_loses_nothing(path):
    def rotate():
        path.rename(path.with_name("events.out.tfevents.0.host.rotated"))

    steps = play(path.parent, append(path, record(1) + record(2)), rotate, append(path, record(3)))
    assert sorted(set(steps)) == [1, 2, 3]


def test_a_half_written_record_is_not_damage(engine, path):
    data = record(1)
    assert play(path.parent, append(path, data[:30]), append(path, data[30:])) == [1]


def test_zeros_filled_in_later_are_not_damage(engine, path):
    actions = [
        rewrite(path, record(1) + bytes(len(record(2)))),
        rewrite(path, record(1) + record(2)),
    ]
    assert play(path, append(path, record(1)), *actions) == [1, 2]


def test_damage_is_reported_once_records_follow_and_costs_nothing_else(engine, path):
    data = bytearray(record(2))
    data[14] ^= 1
    actions = [append(path, record(1)), append(path, bytes(data)), append(path, record(3))]
    with pytest.warns(errors.DamageWarning, match="checksum") as caught:
        assert play(path.parent, *actions, append(path, record(4)), on_damage="warn") == [1, 3, 4]
    assert len(caught) == 1


def test_frames_inside_a_half_written_record_are_not_records(engine, path):
    outer = frame(event(tensor("x", floats([0], [])), simple("y" * 9 + "z", 1.0), step=5))
    inner = record(99)
    payload = b"\x1a" + bytes([len(inner)]) + inner  # in the file_version field
    whole = frame(payload)
    pieces = [whole[:20], whole[20:-2], whole[-2:], outer]
    assert play(path.parent, *(append(path, piece) for piece in pieces)) == [5, 5]


def test_a_torn_record_is_given_up_when_the_file_outgrows_it(engine, path):
    torn = header(100) + b"only this"
    later = [append(path, record(i)) for i in range(6)]
    steps = play(path.parent, append(path, torn), *later, on_damage="ignore")
    assert steps == list(range(6))


def test_tags_are_filtered(path):
    data = frame(event(simple("x", 1.0), step=1)) + frame(event(simple("y", 1.0), step=2))
    assert play(path.parent, append(path, data), tags="y") == [2]


def test_closing_the_iterator_closes_the_file(path):
    append(path, record(1) + record(2))()
    data = tb_firstloss.follow(path.parent)
    assert next(data).step == 1
    descriptors = Path("/proc/self/fd")
    open_before = len(list(descriptors.iterdir()))
    data.close()
    assert len(list(descriptors.iterdir())) == open_before - 1


def test_a_waiting_follower_stops_at_once(path):
    stop = threading.Event()
    data = tb_firstloss.follow(path, poll_seconds=60, stop=stop)
    thread = threading.Thread(target=list, args=(data,))
    thread.start()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("gs://bucket/run", {}, "watches local files"),
        ("run", {"poll_seconds": -1}, "poll_seconds: -1"),
        ("run", {"on_damage": "explode"}, "on_damage: 'explode'"),
    ],
    ids=["URL", "negative wait", "option"],
)
def test_misuse_raises_at_once(path, options, message):
    with pytest.raises(ValueError, match=message):
        tb_firstloss.follow(path, **options)
