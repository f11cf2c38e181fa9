"""The command extract: encoded bytes as files, below one directory whatever tags are called."""

import io
import os
import subprocess
import sys
import unicodedata
import wave

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto import summary_pb2

import tb_firstloss
from tb_firstloss.cli import main
from tb_firstloss.cli.commands import extract
from tests.helpers.event_files import event, floats, shaped, simple, tensor, version, write

FILE = "events.out.tfevents.1.host"


def strings(tag, plugin_name, values, shape=None):
    shape = [len(values)] if shape is None else shape
    return tensor(tag, shaped(7, shape, string_val=values), plugin_name=plugin_name)


def image(tag, content):
    return strings(tag, "images", [b"1", b"1", content])


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_tensorflow_writes_becomes_files(tmp_path, capsys):
    pixels = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    with tf.summary.create_file_writer(str(tmp_path / "runs" / "train")).as_default():
        tf.summary.image("samples/one", pixels, step=5)
        tf.summary.image("several", np.concatenate([pixels, 255 - pixels]), step=6, max_outputs=2)
        tf.summary.audio("sound", np.zeros([1, 80, 1], np.float32), 8000, step=7)
        tf.summary.text("note", "**bold**", step=8)
        tf.summary.scalar("loss", 1.0, step=9)
    out = tmp_path / "media"
    assert main(["extract", str(tmp_path / "runs"), "-o", str(out)]) == 0
    found = files_below(out)
    for name, expected in {
        "train/samples/one/5.png": pixels[0],
        "train/several/6.png": pixels[0],
        "train/several/6-2.png": 255 - pixels[0],
    }.items():
        assert np.array_equal(tf.io.decode_png(found.pop(name)).numpy(), expected)
    with wave.open(io.BytesIO(found.pop("train/sound/7.wav"))) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (8000, 80)
    assert found == {"train/note/8.txt": b"**bold**"}
    assert f"{out}: 5 files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "name", "content"),
    [
        (image("t", b"\xff\xd8\xff1"), "t/3.jpg", b"\xff\xd8\xff1"),
        (image("t", b"GIF89a"), "t/3.gif", b"GIF89a"),
        (image("t", b"no image"), "t/3.png", b"no image"),
        (strings("t", "audio", [b"sound", b"label"], [1, 2]), "t/3.wav", b"sound"),
        (strings("t", "audio", [b"sound"]), "t/3.wav", b"sound"),
        (strings("t", "audio", [b"sound"], []), "t/3.wav", b"sound"),
        (strings("t", "text", [b"a", b"b", b"c", b"d"], [2, 2]), "t/3.txt", b"a\nb\nc\nd"),
        (strings("t", "text", [b"\xff\0"], []), "t/3.txt", b"\xff\0"),
        (
            summary_pb2.Summary.Value(tag="t", image={"encoded_image_string": b"old"}),
            "t/3.png",
            b"old",
        ),
        (
            summary_pb2.Summary.Value(tag="t", audio={"encoded_audio_string": b"old"}),
            "t/3.wav",
            b"old",
        ),
    ],
)
def test_bytes_stay_as_they_are(tmp_path, value, name, content):
    write(tmp_path / "runs" / FILE, event(value, step=3))
    assert main(["extract", str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 0
    assert files_below(tmp_path / "out") == {name: content}


@pytest.mark.parametrize(
    "value",
    [
        tensor("t", floats([3], [1, 2, 3]), plugin_name="images"),
        tensor("t", floats([], [1]), plugin_name="text"),
        strings("t", "images", [b"1"], []),
        strings("t", "audio", [], [0, 2]),
        strings("t", "another", [b"1", b"1", b"x"]),
        simple("t", 1.0),
    ],
)
def test_what_holds_nothing_encoded_is_left_out(tmp_path, capsys, value):
    write(tmp_path / "runs" / FILE, event(value))
    assert main(["extract", str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 1
    assert "0 files" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


HOSTILE = {
    "up": ["..", "../..", "a/../../../b", "/", "//", "/etc/passwd", ".", "./.", "~", ""],
    "characters": [
        "a\\..\\b",
        "C:\\x",
        "nul\0",
        "new\nline",
        "\x1b[31m",
        "a:b",
        "\u202egnp",
        " . ",
    ],
    "case": ["Loss", "loss", "LOSS", "loss-2", "Straße", "STRASSE"],
    "accents": [unicodedata.normalize(form, "größe") for form in ("NFC", "NFD")],
    "cut": ["/".join(["x" * 98] * 5 + [f"{n}5.png"]) for n in range(3)],
    "long": ["x" * 300, "x" * 299 + "y", "ü" * 300, "/".join("abc" * 30 for _ in range(300))],
    "like files": ["a", "a/5.png", "a/5.png/b", "a/5-2.png", "a/5.png_"],
    "across runs": ["run/x", "x"],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_every_tag_has_its_file_below_the_directory(tmp_path, capsys, kind):
    tags = HOSTILE[kind]
    for run in ("run", "."):
        made = [image(tag, f"{run} {i}".encode()) for i, tag in enumerate(tags)]
        write(tmp_path / "runs" / run / FILE, version(), event(*made, step=5))
    out = tmp_path / "home" / "out"
    assert main(["extract", str(tmp_path / "runs"), "-o", str(out)]) == 0
    found = files_below(out)
    expected = {f"{run} {i}".encode() for run in ("run", ".") for i in range(len(tags))}
    assert set(found.values()) == expected
    assert len(found) == len(expected)
    folded = {unicodedata.normalize("NFC", name).casefold() for name in found}
    assert len(folded) == len(found), "one would replace another where case does not count"
    assert all(max(len(os.fsencode(part)) for part in name.split("/")) <= 255 for name in found)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "runs"]
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["out"]
    assert capsys.readouterr().err.replace("\n", "").isprintable()


def test_plain_names_stay_and_changed_ones_are_named(tmp_path, capsys):
    made = [image(tag, tag.encode()) for tag in ("a b/größe=1", "x:y")]
    write(tmp_path / "runs" / FILE, event(*made))
    assert main(["extract", str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 0
    assert set(files_below(tmp_path / "out")) == {"a b/größe=1/0.png", "x_y/0.png"}
    err = capsys.readouterr().err
    assert f"not named as their tags: {tmp_path}/out/x_y (x:y)" in err
    assert "größe" not in err


def test_a_second_extraction_adds_what_is_new_and_replaces_nothing(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    same = event(image("t", b"one"), step=1)
    write(runs / FILE, same, same, event(image("t", b"two"), step=2))
    for _ in range(2):
        assert main(["extract", str(runs), "-o", str(out), "-q"]) == 0
        expected = {"t/1.png": b"one", "t/1-2.png": b"one", "t/2.png": b"two"}
        assert files_below(out) == expected
    (out / "t" / "2.png").write_bytes(b"mine")
    assert main(["extract", str(runs), "-o", str(out), "-q", "--steps", "2"]) == 0
    assert files_below(out) == {**expected, "t/2.png": b"mine", "t/2-2.png": b"two"}


@pytest.mark.parametrize("same", ["step", "beginning"])
def test_thousands_of_one_name_each_have_a_file(tmp_path, same):
    tags = ["t"] * 3_000 if same == "step" else ["x" * 120 + str(n) for n in range(3_000)]
    made = [image(tag, str(n).encode()) for n, tag in enumerate(tags)]
    write(tmp_path / "runs" / FILE, event(*made, step=1))
    assert main(["extract", str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "-q"]) == 0
    assert sorted(files_below(tmp_path / "out").values()) == sorted(
        str(n).encode() for n in range(len(tags))
    )


def test_runs_of_several_paths_stay_apart(tmp_path):
    for path in ("a", "b"):
        write(tmp_path / path / FILE, event(image("t", path.encode())))
    sources = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["extract", *sources, "-o", str(tmp_path / "out"), "-q"]) == 0
    assert set(files_below(tmp_path / "out").values()) == {b"a", b"b"}


def test_damage_hides_no_neighbour(tmp_path, capsys):
    path = write(tmp_path / "runs" / FILE, event(image("t", b"1"), step=1))
    path.write_bytes(path.read_bytes() + b"junk" * 9 + path.read_bytes())
    assert main(["extract", str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 1
    assert set(files_below(tmp_path / "out")) == {"t/1.png", "t/1-2.png"}
    assert "corrupt header" in capsys.readouterr().err


@pytest.mark.parametrize("plugin_name", ["images", "audio", "text"])
def test_one_string_for_many_is_reported_and_hides_no_neighbour(tmp_path, capsys, plugin_name):
    bomb = strings("bomb", plugin_name, [b"x" * 10_000], [2_000])
    write(tmp_path / "runs" / FILE, event(bomb, strings("t", "text", [b"1"])))
    assert main(["extract", str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 1
    assert files_below(tmp_path / "out") == {"t/0.txt": b"1"}
    assert "run ., tag bomb, step 0: one string for 2000" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_that_passes_for_whole(tmp_path):
    content = b"\x89PNG" + bytes(300_000)
    write(tmp_path / "runs" / FILE, event(strings("a", "text", [b"1"]), image("b", content)))
    arguments = ["extract", str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "-q"]
    code = f"from tb_firstloss.cli import main; raise SystemExit(main({arguments!r}))"
    limited = ["bash", "-c", 'ulimit -f 100; exec "$0" -c "$1"', sys.executable, code]
    assert subprocess.run(limited, check=False, timeout=120).returncode == 2
    assert files_below(tmp_path / "out") == {"a/0.txt": b"1"}
    assert main(arguments) == 0
    assert files_below(tmp_path / "out") == {"a/0.txt": b"1", "b/0.png": content}


def test_metadata_comes_with_each_value(engine, tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        for step in range(2):
            tf.summary.histogram("weights", [1.0], step=step, description="of *the* layer")
            tf.summary.text("note", "x", step=step)
    (file,) = tmp_path.iterdir()
    records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    events = [tf.compat.v1.Event.FromString(record) for record in records]
    expected = [
        (m.display_name, m.summary_description, m.plugin_data.content)
        for m in (value.metadata for made in events for value in made.summary.value)
    ]
    found = [datum.metadata for datum in tb_firstloss.iter_tensors(tmp_path)]
    assert found == expected
    assert found[0].description == "of *the* layer"


def test_a_value_without_metadata_has_empty_ones(engine, tmp_path):
    write(tmp_path / FILE, event(simple("x", 1.0)))
    (datum,) = tb_firstloss.iter_tensors(tmp_path)
    assert datum.metadata == ("", "", b"")


def test_a_safe_path_is_one_path_down():
    assert extract.safe_path("a/b c/größe") == "a/b c/größe"
    assert extract.safe_path("../a//..") == "_/a/_/_"
