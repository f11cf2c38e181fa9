"""The tab's server side, without a browser: loading, and what it makes of recordings."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.context import RequestContext

from tb_firstloss import contract
from tb_firstloss.first_batch import FirstBatch, OutputLoss
from tb_firstloss.tensorboard_tab import recordings, rows
from tests.tensorboard_tab.browser import serving


def output(values, *splits):
    return OutputLoss(
        per_example=np.asarray(values), row_splits=tuple(np.asarray(s) for s in splits)
    )


def first_batch(loss=None, run="r", **outputs):
    return FirstBatch(run=run, step=0, wall_time=1.0, loss=loss, outputs=outputs)


def test_the_entry_point_imports_only_the_standard_library_and_tensorboard():
    code = (
        "import sys, tensorboard.plugins.base_plugin; before = set(sys.modules)\n"
        "import tb_firstloss.tensorboard_tab.loader\n"
        "new = {n.split('.')[0] for n in set(sys.modules) - before}\n"
        "print(*(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tb_firstloss"]


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["ml_dtypes", "tb_firstloss.contract"])
def test_tensorboard_starts_without_the_tab_when_something_is_missing(tmp_path, missing):
    _, code = serving.WITHOUT_TENSORFLOW
    code = f"import sys; sys.modules[{missing!r}] = None; {code}"
    with serving.tensorboard(tmp_path, command=("-c", code)) as server:
        listing = server.get_json("data/plugins_listing")
    assert "scalars" in listing
    assert "tb_firstloss" not in listing


@pytest.mark.parametrize(
    ("made", "flat", "index"),
    [
        (output(np.zeros((2, 3, 4))), 17, [1, 1, 1]),
        (output(np.zeros(5), [0, 2, 2, 5]), 3, [2, 1]),
        (output(np.zeros((5, 2)), [0, 2, 2, 5]), 3, [0, 1, 1]),
        (output(np.zeros(4), [0, 0, 2], [0, 1, 4]), 2, [1, 1, 1]),
    ],
    ids=["dense", "ragged", "ragged-of-vectors", "ragged-twice"],
)
def test_an_index_names_the_example_first(made, flat, index):
    assert rows.index_of(flat, made) == index


def test_ragged_indexes_agree_with_tensorflow():
    import tensorflow as tf

    ragged = tf.ragged.constant([[[1.0], []], [], [[2.0, 3.0], [4.0]]])
    splits = [s.numpy() for s in ragged.nested_row_splits]
    made = output(ragged.flat_values.numpy(), *splits)
    for flat, value in enumerate(made.per_example):
        i, j, k = rows.index_of(flat, made)
        assert ragged[i][j][k] == value


def test_the_largest_are_the_non_finite_and_then_the_highest_first_come_first():
    values = np.array([1.0, 9.0, np.nan, 9.0, -np.inf, *np.linspace(2, 3, 20)])
    assert rows.find_largest(values) == [2, 4, 1, 3, 24, 23, 22, 21, 20, 19]
    assert rows.find_largest(values[:2]) == [1, 0]
    assert rows.find_largest(np.empty(0)) == []


@pytest.mark.parametrize("count", [0, 1, 256, 257, 5000])
def test_a_histogram_stands_for_every_value(count):
    values = np.random.default_rng(count).normal(size=count)
    points, counts = rows.to_points(values)
    assert len(points) <= 256
    assert sum(counts or [1] * len(points)) == count
    if count:
        width = np.ptp(values) / 256 if counts else 1e-5
        assert min(points) == pytest.approx(values.min(), abs=width)
        assert max(points) == pytest.approx(values.max(), abs=width)


@pytest.mark.parametrize(
    "extreme", [[-1.7e308, 1.7e308], [1.79769313e308] * 300], ids=["far-apart", "largest"]
)
def test_the_ends_of_float64_stay_numbers(extreme):
    values = np.array(extreme * 200)
    points, _ = rows.to_points(values)
    assert all(math.isfinite(point) for point in points)


def test_a_row_is_json_whatever_the_values():
    values = np.array([np.nan, np.inf, -np.inf, 1.0], np.float16)
    row = rows.to_row(first_batch(loss=np.float32(np.nan), y=output(values)))
    text = json.dumps(row, allow_nan=False)
    assert json.loads(text)["loss"] == "NaN"
    assert [item["value"] for item in row["outputs"][0]["largest"]] == [
        "NaN",
        "Infinity",
        "-Infinity",
        1.0,
    ]


def test_a_comparison_counts_equal_bits_and_finds_the_largest_difference():
    a = first_batch(np.float32(1), y=output(np.float32([[0.0, np.nan], [1.0, 5.0]])))
    b = first_batch(np.float32(3), y=output(np.float32([[-0.0, np.nan], [1.5, 2.0]])))
    found = rows.compare((a, "y"), (b, "y"))
    assert (found["digests_agree"], found["loss_difference"]) == (False, 2)
    assert found["values"] == {
        "count": 4,
        "equal": 1,  # the NaN; a negative zero has other bits
        "largest": {"index": [1, 1], "a": 5, "b": 2, "difference": -3},
    }


def test_a_value_that_became_nan_differs_most():
    a, b = (first_batch(y=output(v)) for v in ([1.0, 2.0], [9.0, np.nan]))
    assert rows.compare((a, "y"), (b, "y"))["values"]["largest"]["index"] == [1]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (output(np.zeros(3)), output(np.zeros(4))),
        (output(np.zeros(3), [0, 1, 3]), output(np.zeros(3), [0, 2, 3])),
    ],
    ids=["shape", "row-splits"],
)
def test_values_of_different_shapes_are_not_compared_one_by_one(a, b):
    found = rows.compare((first_batch(y=a), "y"), (first_batch(y=b), "y"))
    assert "float64[3]" in found["values"]["reason"]


@pytest.fixture
def written(tmp_path):
    """Two recordings, read through TensorBoard's own data provider."""
    from tb_firstloss import FirstLoss

    for name, count in (("small", 10), ("large", 1000)):
        FirstLoss(tmp_path / name, on_error="raise").record(np.arange(float(count)))
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    return data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))


def test_every_recording_is_read_once(written):
    read = recordings.Recordings(written)
    version, text = read.to_json(RequestContext(), "")
    assert [r["run"] for r in json.loads(text)["recordings"]] == [
        "large/first_batch",
        "small/first_batch",
    ]
    calls = []
    written.read_tensors = lambda *args, **kwargs: calls.append(kwargs)
    assert read.to_json(RequestContext(), "") == (version, text)
    assert calls == []


def test_of_a_large_array_only_the_statistics_are_shown(written, monkeypatch):
    monkeypatch.setattr(recordings, "MAX_ARRAY_BYTES", 800)
    _, text = recordings.Recordings(written).to_json(RequestContext(), "")
    large, small = (r["outputs"][0] for r in json.loads(text)["recordings"])
    assert (large["count"], large["mean"]) == (1000, 499.5)
    assert "values" not in large
    assert len(small["values"]) == 10


def test_a_call_that_fails_is_tried_run_by_run(written):
    read_tensors = written.read_tensors

    def fail_for_large(*args, run_tag_filter, **kwargs):
        if "large/first_batch" in run_tag_filter.runs:
            raise ValueError("broken")
        return read_tensors(*args, run_tag_filter=run_tag_filter, **kwargs)

    written.read_tensors = fail_for_large
    _, text = recordings.Recordings(written).to_json(RequestContext(), "")
    large, small = json.loads(text)["recordings"]
    assert large["problem"] == "TensorBoard cannot read it (broken)"
    assert small["outputs"][0]["count"] == 10


def test_the_tab_reads_what_the_contract_names(written):
    found = recordings.Recordings(written).read(RequestContext(), "", "small/first_batch")
    assert found.per_example.tolist() == list(range(10))
    assert recordings.Recordings(written).read(RequestContext(), "", "none") == "no such run"
    assert contract.PLUGIN_NAME in written.list_plugins(RequestContext(), experiment_id="")
