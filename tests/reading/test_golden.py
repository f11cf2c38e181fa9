"""Files that other writers made, once, with golden/generate.py."""

import io
import math
import wave
from pathlib import Path

import numpy as np
import pytest

import tb_firstloss

GOLDEN = Path(__file__).parent / "golden"
WRITERS = ["pytorch", "tensorboardx", "tf1", "clu"]
SCALARS = np.array([0.1, -2.5, math.nan, math.inf, 3.0e38], np.float32)
VALUES = np.linspace(-1, 2, 50)


def read(writer, tag=None):
    return list(tb_firstloss.iter_tensors(GOLDEN / writer, tags=tag, on_damage="raise"))


@pytest.mark.parametrize("writer", WRITERS)
def test_scalars_are_exact(engine, writer):
    data = [d for d in read(writer, "loss") if d.run == "."]
    assert [d.step for d in data] == [0, 1, 2, 3, 4]
    assert {(d.plugin_name, d.value.dtype.name, d.value.shape) for d in data} == {
        ("scalars", "float32", ())
    }
    assert np.stack([d.value for d in data]).tobytes() == SCALARS.tobytes()


@pytest.mark.parametrize("writer", WRITERS)
def test_columns_hold_the_same_scalars(engine, writer):
    found = tb_firstloss.read_scalars(GOLDEN / writer, runs=".", tags="loss")
    assert found.value.tobytes() == SCALARS.astype(np.float64).tobytes()


@pytest.mark.parametrize("writer", WRITERS)
def test_histograms_count_every_value_between_its_edges(engine, writer):
    (datum,) = read(writer, "weights")
    left, right, count = datum.value.T
    assert datum.plugin_name == "histograms"
    assert (left[0], right[-1], count.sum()) == (-1.0, 2.0, 50.0)
    assert np.array_equal(left[1:], right[:-1])
    for edge, below in zip(right, np.cumsum(count), strict=True):
        assert abs(np.count_nonzero(edge >= VALUES) - below) <= 1  # edges are rounded


@pytest.mark.parametrize("writer", WRITERS)
def test_text_is_exact(engine, writer):
    (datum,) = read(writer, "note*")
    assert (datum.plugin_name, datum.value.ravel().tolist()) == ("text", [b"first **batch**"])


@pytest.mark.parametrize("writer", ["pytorch", "tensorboardx", "tf1"])
def test_images_come_with_their_size(engine, writer):
    (datum,) = read(writer, "picture*")
    width, height, encoded = datum.value
    assert (datum.plugin_name, width, height) == ("images", b"5", b"4")
    assert encoded.startswith(b"\x89PNG")
    assert np.frombuffer(encoded[16:24], ">u4").tolist() == [5, 4]


def test_sound_is_a_wave_file(engine):
    (datum,) = read("tf1", "sound*")
    with wave.open(io.BytesIO(datum.value[0, 0])) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (8000, 64)
    assert datum.plugin_name == "audio"


@pytest.mark.parametrize("writer", ["pytorch", "tensorboardx"])
def test_hparams_are_a_separate_run(engine, writer):
    (datum,) = read(writer, "hparam/loss")
    assert float(datum.value) == 0.5
    events = tb_firstloss.iter_events(GOLDEN / writer, runs=datum.run)
    plugins = {v.metadata.plugin_data.plugin_name for _, e in events for v in e.summary.value}
    assert "hparams" in plugins


def test_pytorchs_new_style_keeps_dtype_and_shape(engine):
    data = {d.tag: d.value for d in read("pytorch") if d.run == "new_style"}
    assert data["double"].dtype == np.float64
    assert float(data["double"]) == 0.1
    assert data["tensor"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert read("pytorch", "valid/größe")[0].step == 7


def test_a_tf1_tensor_summary_keeps_dtype_and_shape(engine):
    (datum,) = read("tf1", "tensor")
    assert (datum.value.dtype, datum.value.tolist()) == (np.int64, [[1, 2], [3, 4]])


def test_tf1s_graph_run_metadata_and_session_log_are_events():
    kinds = [e.WhichOneof("what") for _, e in tb_firstloss.iter_events(GOLDEN / "tf1")]
    assert {"graph_def", "meta_graph_def", "tagged_run_metadata", "session_log"} <= set(kinds)


@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_is_damaged(writer):
    assert tb_firstloss.verify(GOLDEN / writer) == []
