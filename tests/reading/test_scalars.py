"""Columns of scalars, and their way into pandas, Arrow, CSV and Parquet."""

import csv
import math
from concurrent.futures import ProcessPoolExecutor

import ml_dtypes
import numpy as np
import pyarrow.parquet
import pytest

import tb_firstloss
from tb_firstloss import errors
from tb_firstloss.reading import scalars
from tb_firstloss.reading.format import rows
from tb_firstloss.reading.selection import Selection
from tests.helpers.damaged_files import CASES, FILE_NAME
from tests.helpers.event_files import (
    content,
    event,
    floats,
    frame,
    scalar,
    shaped,
    simple,
    tensor,
    write,
)


@pytest.fixture
def logdir(tmp_path):
    write(
        tmp_path / "a" / FILE_NAME,
        event(simple("loss", 0.1), simple("accuracy", 0.5), step=0, wall_time=10.5),
        event(scalar("loss", math.nan), step=1, wall_time=11.5),
        event(scalar("loss", math.inf), step=1, wall_time=12.5),
    )
    write(tmp_path / "b" / FILE_NAME, event(scalar("loss", -2.0), step=-7, wall_time=0.0))
    return tmp_path


def rows_of(found):
    return list(zip(found.run, found.tag, found.step.tolist(), found.value.tolist(), strict=True))


def test_columns_hold_every_scalar_in_file_order(engine, logdir):
    found = tb_firstloss.read_scalars(logdir)
    tenth = float(np.float32(0.1))
    assert repr(rows_of(found)) == repr(
        [
            ("a", "loss", 0, tenth),
            ("a", "accuracy", 0, 0.5),
            ("a", "loss", 1, math.nan),
            ("a", "loss", 1, math.inf),
            ("b", "loss", -7, -2.0),
        ]
    )
    assert found.wall_time.tolist() == [10.5, 10.5, 11.5, 12.5, 0.0]
    assert [c.dtype for c in (found.step, found.wall_time, found.value)] == ["i8", "f8", "f8"]
    assert repr(found) == "Scalars(5 rows, 2 runs, 2 tags)"


def test_columns_grow_over_chunks_files_and_stretches_without_scalars(
    engine, tmp_path, monkeypatch
):
    monkeypatch.setattr(rows, "ROWS_PER_CHUNK", 3)
    monkeypatch.setattr(scalars, "_FEW_ROWS", 0)
    large = tensor("large", floats([9000], [0.5] * 9000))
    for i in range(3):
        events = [event(simple("a", j), simple("b", -j), step=100 * i + j) for j in range(40)]
        write(tmp_path / f"{FILE_NAME}.{i}", *events[:2], *[event(large)] * 4, *events[2:])
    found = tb_firstloss.read_scalars(tmp_path)
    steps = [100 * i + j for i in range(3) for j in range(40) for _ in "ab"]
    assert found.step.tolist() == steps
    assert found.value.tolist() == [sign * (step % 100) for step in steps[::2] for sign in (1, -1)]
    assert found.tag.tolist() == ["a", "b"] * 120
    assert all(c.base is None for c in (found.step, found.value)), "room for more is kept"


def test_columns_agree_with_iter_tensors_on_every_file_of_the_corpus(engine, tmp_path):
    path = tmp_path / FILE_NAME
    for case in CASES[::7]:
        path.write_bytes(case.data)
        found = tb_firstloss.read_scalars(path, on_damage="ignore")
        data = tb_firstloss.iter_tensors(path, on_damage="ignore")
        expected = [(d.tag, d.step, float(d.value)) for d in data if d.value.dtype == np.float32]
        assert [row[1:] for row in rows_of(found)] == expected, case.name


REAL = {
    "float64": content([], np.array(1 / 3), 2),
    "int64": content([], np.array(-(2**53)), 9),
    "uint8": shaped(4, [], int_val=[200]),
    "bool": shaped(10, [], bool_val=[True]),
    "bfloat16": content([], np.array(1.5, ml_dtypes.bfloat16), 14),
    "float16": shaped(19, [], half_val=[0x3C00]),
    "float8": content([], np.array(0.5, ml_dtypes.float8_e4m3fn), 25),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_scalar_of_any_dtype_is_a_scalar(engine, tmp_path, name):
    write(tmp_path / FILE_NAME, event(tensor("x", REAL[name], plugin_name="scalars")))
    (datum,) = tb_firstloss.iter_tensors(tmp_path)
    assert tb_firstloss.read_scalars(tmp_path).value.tolist() == [float(datum.value)]


ONE_NUMBER = {
    "rank 0": floats([], [1.5]),
    "rank 1": floats([1], [1.5]),
    "rank 1 of content": content([1], np.array([1.5], np.float32), 1),
    "rank 3 of int64": shaped(9, [1, 1, 1], int64_val=[7]),
    "rank 32": shaped(1, [1] * 32, float_val=[1.5]),
    "rank 1 of half": shaped(19, [1], half_val=[0x3C00]),
    "rank 1 of -0.0": shaped(2, [1], double_val=[-0.0]),
}


@pytest.mark.parametrize("proto", ONE_NUMBER.values(), ids=ONE_NUMBER)
def test_a_single_number_is_what_tensorboard_shows_whatever_its_rank(engine, tmp_path, proto):
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext

    write(tmp_path / FILE_NAME, event(tensor("x", proto, plugin_name="scalars"), step=3))
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    options = {"experiment_id": "", "plugin_name": "scalars", "downsample": 10}
    ((shown,),) = provider.read_scalars(RequestContext(), **options)["."].values()
    found = tb_firstloss.read_scalars(tmp_path)
    assert (found.step.tolist(), repr(found.value.tolist())) == ([3], repr([float(shown.value)]))


def test_countless_damage_is_said_ten_times_and_not_kept(engine, tmp_path):
    damaged = bytearray(frame(event(simple("x", 1.0))))
    damaged[-1] ^= 1
    paths = [str(tmp_path / "1.tfevents"), str(tmp_path / "2.tfevents")]
    (tmp_path / "1.tfevents").write_bytes((damaged + frame(event(simple("x", 2.0)))) * 500)
    (tmp_path / "2.tfevents").write_bytes(damaged * 2)
    found, kept = scalars._read_run((".", paths), Selection())
    assert found.value.tolist() == [2.0] * 500
    assert [damage.path for damage in kept] == paths[:1] * 10 + paths[1:] * 2
    with pytest.warns(errors.DamageWarning) as caught:
        tb_firstloss.read_scalars(tmp_path)
    assert [str(w.message).split(":")[0] for w in caught] == [damage.path for damage in kept]
    assert "verify() lists it" in str(caught[9].message)


@pytest.mark.parametrize(
    "proto",
    [
        shaped(19, [], half_val=[0x8000]),
        shaped(14, [], half_val=[0x8000]),
        shaped(14, [], tensor_content=b"\x00\x80"),
        shaped(24, [], float8_val=b"\x80"),
        floats([], [-0.0]),
        shaped(2, [], double_val=[-0.0]),
    ],
    ids=["half", "bfloat16", "content", "float8", "float", "double"],
)
def test_a_negative_zero_keeps_its_sign(engine, tmp_path, proto):
    write(tmp_path / FILE_NAME, event(tensor("x", proto)))
    assert repr(tb_firstloss.read_scalars(tmp_path).value.tolist()) == "[-0.0]"


def test_a_scalar_above_max_tensor_bytes_raises_what_iter_tensors_raises(engine, tmp_path):
    write(tmp_path / FILE_NAME, event(tensor("x", content([], np.array(1), 9))))
    for read in (
        tb_firstloss.read_scalars,
        lambda *a, **o: list(tb_firstloss.iter_tensors(*a, **o)),
    ):
        with pytest.raises(errors.TensorTooLargeError, match="8 bytes exceed max_tensor_bytes=7"):
            read(tmp_path, on_damage="raise", max_tensor_bytes=7)


OTHER = {
    "a vector": tensor("x", floats([2], [1.0, 2.0]), plugin_name="scalars"),
    "an empty vector": tensor("x", floats([0], []), plugin_name="scalars"),
    "a value for 2**28": tensor("x", floats([2**14, 2**14], [1.0]), plugin_name="scalars"),
    "a vector of no plugin": tensor("x", floats([1], [1.0])),
    "another plugin's": tensor("x", floats([], [1.0]), plugin_name="tb_firstloss"),
    "a string": tensor("x", shaped(7, [], string_val=[b"1"])),
    "a complex number": tensor("x", shaped(8, [], scomplex_val=[1, 2])),
}


@pytest.mark.parametrize("name", OTHER)
def test_anything_else_is_not_a_scalar(engine, tmp_path, name):
    write(tmp_path / FILE_NAME, event(OTHER[name], simple("y", 1.0)))
    assert rows_of(tb_firstloss.read_scalars(tmp_path, on_damage="raise")) == [(".", "y", 0, 1.0)]


def test_filters_choose_runs_tags_and_steps(engine, logdir):
    found = tb_firstloss.read_scalars(logdir, runs="a", tags="l*", steps=range(1, 5))
    assert [row[:3] for row in rows_of(found)] == [("a", "loss", 1)] * 2
    assert len(tb_firstloss.read_scalars(logdir, runs="none")) == 0


@pytest.mark.parametrize(("keep", "expected"), [("first", math.nan), ("last", math.inf)])
def test_of_values_written_twice_one_can_be_kept(engine, logdir, keep, expected):
    found = tb_firstloss.read_scalars(logdir, runs="a", keep=keep)
    assert repr(found.value.tolist()[2:]) == repr([expected])


def test_a_bad_scalar_is_reported_and_hides_no_other(engine, tmp_path):
    bad = tensor("bad", shaped(3, [], int_val=[1, 2]), plugin_name="scalars")
    write(tmp_path / FILE_NAME, event(bad, simple("good", 1.0)))
    with pytest.warns(errors.DamageWarning, match="bad: 2 values for the 1 elements"):
        assert rows_of(tb_firstloss.read_scalars(tmp_path)) == [(".", "good", 0, 1.0)]
    with pytest.raises(errors.UndecodableError):
        tb_firstloss.read_scalars(tmp_path, on_damage="raise")


def test_an_executor_reads_what_threads_read(logdir):
    (logdir / "b" / "events.out.tfevents.2.host").write_bytes(b"junk" * 10)
    with ProcessPoolExecutor(2) as executor, pytest.warns(errors.DamageWarning, match="junk|bytes"):
        found = tb_firstloss.read_scalars(logdir, executor=executor)
    expected = tb_firstloss.read_scalars(logdir, on_damage="ignore")
    assert repr(rows_of(found)) == repr(rows_of(expected))


def test_pandas_gets_the_same_columns(logdir):
    found = tb_firstloss.read_scalars(logdir)
    frame = found.to_pandas()
    assert list(frame.columns) == ["run", "tag", "step", "wall_time", "value"]
    assert frame["run"].astype(str).tolist() == found.run.tolist()
    assert frame["tag"].astype(str).tolist() == found.tag.tolist()
    assert frame["value"].to_numpy().tobytes() == found.value.tobytes()
    assert frame["step"].dtype == np.int64


def test_parquet_keeps_every_bit(logdir, tmp_path):
    found = tb_firstloss.read_scalars(logdir)
    found.to_parquet(tmp_path / "scalars.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "scalars.parquet")
    assert table.column_names == ["run", "tag", "step", "wall_time", "value"]
    assert table["run"].to_pylist() == found.run.tolist()
    assert table["tag"].to_pylist() == found.tag.tolist()
    for name in ("step", "wall_time", "value"):
        assert table[name].to_numpy().tobytes() == getattr(found, name).tobytes()


def test_csv_reads_back_to_the_same_numbers(logdir, tmp_path):
    found = tb_firstloss.read_scalars(logdir)
    found.to_csv(tmp_path / "scalars.csv")
    with (tmp_path / "scalars.csv").open(newline="", encoding="utf-8") as file:
        head, *body = csv.reader(file)
    assert head == ["run", "tag", "step", "wall_time", "value"]
    assert [row[0] for row in body] == found.run.tolist()
    assert [int(row[2]) for row in body] == found.step.tolist()
    values = np.array([float(row[4]) for row in body])
    assert np.array_equal(values, found.value, equal_nan=True)


@pytest.mark.parametrize("write_to", ["to_csv", "to_parquet"])
def test_a_failing_write_leaves_the_old_file(logdir, tmp_path, write_to, monkeypatch):
    target = tmp_path / "out"
    target.write_text("old")
    found = tb_firstloss.read_scalars(logdir)
    del found.__dict__["step"]  # makes either one fail halfway
    with pytest.raises(AttributeError):
        getattr(found, write_to)(target)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "out"]


def test_no_scalars_make_empty_columns(tmp_path):
    found = tb_firstloss.read_scalars(tmp_path)
    assert (len(found), found.run.tolist(), len(found.to_pandas())) == (0, [], 0)
    assert found.to_arrow().num_rows == 0
