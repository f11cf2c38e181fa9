"""Scalars sorted, reduced to the last, made wide, and taken by other libraries."""

import csv
import itertools
import math
import os
import stat
import struct
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import tb_firstloss
from tb_firstloss.reading.columns import Scalars
from tests.helpers.damaged_files import FILE_NAME
from tests.helpers.event_files import event, simple, tensor, version, write
from tests.helpers.event_files import floats as proto

ROWS = [  # run, tag, step, value
    ("b", "loss", 2, 0.25),
    ("b", "loss", 0, 0.5),
    ("b", "accuracy", 2, 0.75),
    ("b", "loss", 1, math.nan),
    ("a/train", "loss", 7, 1.0),
    ("a/train", "loss", -1, math.inf),
]


@pytest.fixture
def logdir(tmp_path):
    for run in ("a/train", "b"):
        rows = [row for row in ROWS if row[0] == run]
        events = [event(simple(t, v), step=s, wall_time=i) for i, (_, t, s, v) in enumerate(rows)]
        image = event(tensor("picture", proto([2], [1, 2]), plugin_name="images"))
        write(tmp_path / run / FILE_NAME, version(), image, *events)
    write(tmp_path / "pictures" / FILE_NAME, version(), image)
    return tmp_path


@pytest.fixture
def found(logdir):
    return tb_firstloss.read_scalars(logdir)


def rows_of(found):
    return list(zip(found.run, found.tag, found.step.tolist(), found.value.tolist(), strict=True))


def test_names_are_those_of_rows(engine, logdir, found):
    assert (found.run_names, set(found.tag_names)) == (["a/train", "b"], {"loss", "accuracy"})
    some = tb_firstloss.read_scalars(logdir, runs="b", tags="accuracy")
    assert (some.run_names, some.tag_names) == (["b"], ["accuracy"])
    frame = tb_firstloss.read_scalars(logdir, steps=7).to_pandas()
    assert [list(frame[c].cat.categories) for c in ("run", "tag")] == [["a/train"], ["loss"]]
    assert tb_firstloss.read_scalars(logdir, runs="pictures").run_names == []


def test_sorted_orders_by_run_tag_and_step(found):
    expected = sorted(ROWS, key=lambda row: row[:3])
    assert repr(rows_of(found.sorted())) == repr(expected)
    assert repr(rows_of(found)) == repr([*ROWS[4:], *ROWS[:4]]), "the original has changed"


def test_sorted_keeps_the_file_order_of_equals(tmp_path):
    steps = [3, 1] * 40
    write(tmp_path / FILE_NAME, *[event(simple("x", i), step=s) for i, s in enumerate(steps)])
    values = tb_firstloss.read_scalars(tmp_path).sorted().value.tolist()
    assert values == [*range(1, 80, 2), *range(0, 80, 2)]


def test_last_is_the_highest_step_of_each_run_and_tag(found):
    assert rows_of(found.last()) == [
        ("a/train", "loss", 7, 1.0),
        ("b", "accuracy", 2, 0.75),
        ("b", "loss", 2, 0.25),
    ]


def test_last_of_equal_steps_is_the_one_written_last(tmp_path):
    for i, steps in enumerate(([5, 9, 9, 1], [9, 2])):
        values = [event(simple("x", 10 * i + j), step=s) for j, s in enumerate(steps)]
        write(tmp_path / f"{FILE_NAME}.{i}", *values)
    (value,) = tb_firstloss.read_scalars(tmp_path).last().value
    assert value == 10


def test_a_wide_table_is_what_pandas_makes_of_the_long_one(found):
    wide = found.to_pandas(pivot=True)
    frame = pd.DataFrame(ROWS, columns=["run", "tag", "step", "value"])
    # pandas leaves out columns that are NaN alone, and this has none of them.
    expected = frame.pivot(index=["run", "step"], columns="tag", values="value")
    assert wide.index.names == ["run", "step"]
    assert set(wide.columns) == {"loss", "accuracy"}
    assert wide.index.tolist() == sorted(expected.index.tolist())
    for tag in wide:
        np.testing.assert_array_equal(wide[tag], expected[tag].reindex(wide.index))
        assert wide[tag].dtype == np.float64


def test_values_that_share_a_place_are_named(tmp_path):
    twice = [event(simple("x", i), simple("y", i), step=s) for i, s in enumerate([4, 4, 4, 5])]
    write(tmp_path / "run" / FILE_NAME, *twice)
    found = tb_firstloss.read_scalars(tmp_path)
    named = "pivot: several values of run x at step 4, run y at step 4; read with keep='last' .*"
    with pytest.raises(ValueError, match=rf"{named}--keep last"):
        found.to_pandas(pivot=True)
    for keep, value in (("first", 0), ("last", 2)):
        wide = tb_firstloss.read_scalars(tmp_path, keep=keep).to_pandas(pivot=True)
        assert wide["x"].tolist() == [value, 3]


@pytest.mark.parametrize("tag", ["run", "step", "hparams/rate"])
def test_a_tag_called_like_another_column_stays_apart(tmp_path, tag):
    write(tmp_path / "r" / FILE_NAME, event(simple(tag, 1.5), simple("x", 2.5), step=3))
    found = tb_firstloss.read_scalars(tmp_path)
    wide = found.to_arrow(pivot=True, hparams={"r": {"rate": 0.1}}).to_pylist()
    assert wide == [{"run": "r", "step": 3, "hparams/rate": 0.1, f"tag/{tag}": 1.5, "x": 2.5}]
    frame = found.to_pandas(pivot=True, hparams={"r": {"rate": 0.1}}).reset_index()
    assert frame.loc[0, f"tag/{tag}"] == 1.5


@pytest.mark.parametrize("tags", list(itertools.permutations(["run", "tag/run", "tag/tag/run"])))
def test_no_tag_takes_the_column_of_another(tmp_path, tags):
    made = [simple(tag, len(tag)) for tag in tags]
    write(tmp_path / FILE_NAME, event(*made, step=3))
    wide = tb_firstloss.read_scalars(tmp_path).to_pandas(pivot=True).iloc[0].to_dict()
    assert wide == {"tag/run": 7.0, "tag/tag/run": 11.0, "tag/tag/tag/run": 3.0}


def test_a_wide_table_beyond_measure_is_refused_before_it_is_made():
    size = 12_000  # 144 million cells
    numbers = np.arange(size)
    tags = [f"t{i}" for i in range(size)]
    codes = np.zeros(size, np.int32), numbers.astype(np.int32)
    found = Scalars(["r"], tags, *codes, numbers, np.zeros(size), np.zeros(size))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"12000 rows and 12000 tags, above 134217728 .* tags="):
        found.to_pandas(pivot=True)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_what_is_missing_is_no_nan(found, tmp_path):
    rows = {(row["run"], row["step"]): row for row in found.to_arrow(pivot=True).to_pylist()}
    assert rows["b", 0]["accuracy"] is None
    assert math.isnan(rows["b", 1]["loss"])
    found.to_csv(tmp_path / "wide.csv", pivot=True)
    with (tmp_path / "wide.csv").open(newline="") as file:
        cells = {(row["run"], row["step"]): row for row in csv.DictReader(file)}
    assert (cells["b", "0"]["accuracy"], cells["b", "1"]["loss"]) == ("", "nan")


def bits(values):
    return [struct.pack("<d", value) for value in values]


@pytest.mark.parametrize(
    "take",
    [
        lambda found: pl.DataFrame(found).rows(),
        lambda found: duckdb.sql("SELECT * FROM found").fetchall(),
        lambda found: [tuple(row.values()) for row in pa.table(found).to_pylist()],
    ],
    ids=["polars", "duckdb", "pyarrow"],
)
def test_arrow_readers_take_the_rows_as_they_are(found, take):
    rows = take(found)
    assert [row[:3] for row in rows] == [row[:3] for row in rows_of(found)]
    assert bits(row[3] for row in rows) == bits(found.wall_time)
    assert bits(row[4] for row in rows) == bits(found.value)


def test_hyperparameters_stand_beside_each_row(found):
    hparams = {
        "a": {"rate": 0.1, "name": "adam", "flag": True, "either": "auto"},
        "b": {"rate": 1, "either": 2.0},
        "c": {"never": 1.0},
    }
    frame = found.to_pandas(hparams=hparams)
    columns = ["run", "tag", "step", "wall_time", "value"]
    columns += [f"hparams/{name}" for name in ("rate", "name", "flag", "either")]
    assert list(frame.columns) == columns
    assert frame["hparams/rate"].tolist() == [0.1] * 2 + [1.0] * 4
    for column, value in (("hparams/name", "adam"), ("hparams/flag", True)):
        assert frame[column].isna().tolist() == [False] * 2 + [True] * 4
        assert frame[column].tolist()[:2] == [value] * 2
    assert frame["hparams/either"].tolist() == ["auto"] * 2 + [2.0] * 4
    table = found.to_arrow(hparams=hparams)
    assert table["hparams/either"].to_pylist() == ["auto"] * 2 + ["2.0"] * 4
    assert table["hparams/flag"].to_pylist() == [True] * 2 + [None] * 4


def test_hyperparameters_need_a_place_or_a_mapping():
    none = np.zeros(0, np.int32)
    empty = Scalars([], [], none, none, none.astype("i8"), none.astype("f8"), none.astype("f8"))
    with pytest.raises(ValueError, match="give a mapping by run"):
        empty.to_pandas(hparams=True)
    assert len(empty.sorted()) == len(empty.last()) == len(empty.to_pandas(pivot=True)) == 0


@pytest.mark.parametrize("to", ["to_csv", "to_parquet"])
def test_files_hold_wide_tables_too(found, tmp_path, to):
    getattr(found, to)(tmp_path / "out", pivot=True, hparams={"b": {"rate": 0.5}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = pd.read_csv if to == "to_csv" else pd.read_parquet
        frame = read(tmp_path / "out").set_index(["run", "step"])
    expected = found.to_pandas(pivot=True, hparams={"b": {"rate": 0.5}})
    pd.testing.assert_frame_equal(frame, expected, check_index_type=False)


@pytest.mark.parametrize("to", ["to_csv", "to_parquet"])
def test_what_the_path_is_stays(found, tmp_path, to):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    getattr(found, to)(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    expected = (tmp_path / "file").read_bytes()
    with ThreadPoolExecutor() as threads:
        read = threads.submit((tmp_path / "pipe").read_bytes)
        getattr(found, to)(tmp_path / "pipe")
        assert read.result(timeout=30) == expected
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(IsADirectoryError):
        getattr(found, to)(tmp_path / "b")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (pd.Series([2, 7], index=[0, 1]), [7, 2, 2]),
        (pd.Index([0]), [0]),
        (np.int64(7), [7]),
        (np.uint8(2), [2, 2]),
        (np.array([[1, 0], [50, 60]]), [0, 1]),
        (np.array([2.0]), [2, 2]),
        (pd.Series([0, 1], dtype="Int64"), [0, 1]),
        (pl.Series([-1]), [-1]),
        ([1, np.int64(0)], [0, 1]),
        (pd.Series([], dtype="int64"), []),
    ],
    ids=lambda case: type(case).__name__,
)
def test_steps_are_any_integers(engine, logdir, steps, expected):
    assert tb_firstloss.read_scalars(logdir, steps=steps).step.tolist() == expected
    found = tb_firstloss.iter_tensors(logdir, steps=steps, tags=["loss", "accuracy"])
    assert [d.step for d in found] == expected


@pytest.mark.parametrize(
    "steps", ["7", b"7", np.array([True, False]), pd.Series(["7"]), np.str_("7"), 1.5, object()]
)
def test_what_is_no_step_is_refused(logdir, steps):
    with pytest.raises(TypeError, match="give a step, a range, or a set or an array of steps"):
        tb_firstloss.read_scalars(logdir, steps=steps)
