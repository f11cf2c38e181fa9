"""The tab's server side, without a browser: how it loads, and what it makes of recordings."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.compat.proto import summary_pb2
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from werkzeug import test

from tb_firstloss import contract
from tb_firstloss.checks import check
from tb_firstloss.cli import main
from tb_firstloss.errors import UnexpectedLossError
from tb_firstloss.first_batch import FirstBatch, OutputLoss
from tb_firstloss.tensorboard_tab import recordings, rows
from tb_firstloss.tensorboard_tab.plugin import FirstLossPlugin
from tests.helpers.event_files import content, event, floats, shaped, tensor, version, write
from tests.helpers.recorded import record, write_losses
from tests.tensorboard_tab.browser import serving


def output(values, *splits):
    return OutputLoss(
        per_example=np.asarray(values), row_splits=tuple(np.asarray(s) for s in splits)
    )


def first_batch(loss=None, run="r", **outputs):
    losses = {} if loss is None else {"loss": loss}
    return with_losses(losses, outputs, run=run)


def with_losses(losses, outputs=(), run="r", **metadata):
    return FirstBatch(
        run=run, step=0, wall_time=1.0, losses=losses, outputs=dict(outputs), metadata=metadata
    )


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


def test_the_largest_are_the_non_finite_in_order_and_then_the_highest():
    values = np.array([1.0, 9.0, np.nan, 9.0, -np.inf, *np.linspace(2, 3, 20)])
    assert rows.find_largest(values) == [2, 4, 1, 3, 24, 23, 22, 21, 20, 19]
    assert rows.find_largest(values[:2]) == [1, 0]
    assert rows.find_largest(np.empty(0)) == []


@pytest.mark.parametrize("count", [0, 1, 256, 257, 5000])
def test_a_histogram_stands_for_every_value(count):
    values = np.random.default_rng(count).normal(size=count)
    points, counts = rows.to_points(values)
    assert len(points) <= 256
    assert sum(counts) == count
    if count:
        width = np.ptp(values) / 256 if count > 256 else 1e-5
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
    found = rows.to_json(first_batch(loss=np.float32(np.nan), y=output(values)))
    (row,) = json.loads(json.dumps(found, allow_nan=False))["rows"]
    assert row["loss"] == "NaN"
    assert [item["value"] for item in row["output"]["largest"]] == [
        "NaN",
        "Infinity",
        "-Infinity",
        1.0,
    ]


def test_a_comparison_counts_equal_bits_and_finds_the_largest_difference():
    a = first_batch(np.float32(1), y=output(np.float32([[0.0, np.nan], [1.0, 5.0]])))
    b = first_batch(np.float32(3), y=output(np.float32([[-0.0, np.nan], [1.5, 2.0]])))
    found = rows.compare((a, "loss"), (b, "loss"))
    assert (found["digests_agree"], found["identical"]) == (False, False)
    assert found["values"] == {
        "agreement": "different",
        "count": 4,
        "equal": 1,  # the NaN; a negative zero has different bits
        "equal_in_value": 2,
        "largest": {"index": [1, 1], "baseline": 5, "value": 2, "difference": -3},
    }


def test_a_value_that_became_nan_differs_most():
    a, b = (first_batch(y=output(v)) for v in ([1.0, 2.0], [9.0, np.nan]))
    assert rows.compare((a, "y"), (b, "y"))["values"]["largest"]["index"] == [1]


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (output(np.zeros(3)), output(np.zeros(4)), "float64[3] against float64[4]"),
        (
            output(np.zeros(3), [0, 1, 3]),
            output(np.zeros(3), [0, 2, 3]),
            "ragged in different places",
        ),
    ],
    ids=["shape", "row-splits"],
)
def test_values_of_different_shapes_are_not_compared_one_by_one(a, b, reason):
    found = rows.compare((first_batch(y=a), "y"), (first_batch(y=b), "y"))
    assert found["values"] == {"reason": reason}


def test_equal_digests_say_nothing_of_two_outputs_of_one_run():
    first = first_batch(x=output([1.0, 2.0]), y=output([1.0, 2.5]), z=output([1.0, 2.0]))
    found = [rows.compare((first, "x"), (first, name)) for name in "xyz"]
    assert [each["digests_agree"] for each in found] == [True, None, None]
    assert [each["values"]["agreement"] for each in found] == [
        "identical",
        "different",
        "identical",
    ]


def test_of_equal_values_in_two_outputs_of_one_run_the_rows_are_identical():
    first = first_batch(x=output([1.0, 2.0]), y=output([1.0, 2.5]), z=output([1.0, 2.0]))
    found = [rows.compare((first, "x"), (first, name))["identical"] for name in "xyz"]
    assert found == [True, False, True]


@pytest.mark.parametrize(
    ("a", "b", "identical", "equal_in_value"),
    [
        (0x3F800000, 0x3F800000, True, 1),
        (0x3F800000, 0x3F800001, False, 0),
        (0, 0x80000000, False, 1),
        (0x7FC00000, 0x7FC00001, False, 1),
    ],
    ids=["equal", "last-bit", "signed-zero", "nan-payload"],
)
def test_rows_without_outputs_are_compared_bit_for_bit(a, b, identical, equal_in_value):
    a, b = (np.array(bits, np.uint32).view(np.float32) for bits in (a, b))
    one = with_losses({"d": a, "g": np.float32(1)})
    other = with_losses({"d": b, "g": np.float32(2)})  # so the digests always differ
    found = rows.compare((one, "d"), (other, "d"))
    assert (found["digests_agree"], found["identical"], found["values"]) == (False, identical, None)
    assert found["loss"]["equal_in_value"] == equal_in_value


def test_equal_digests_say_nothing_of_two_losses_of_one_run():
    first = with_losses({name: np.float32(x) for name, x in (("d", 1), ("g", 2), ("c", 1))})
    found = [rows.compare((first, "d"), (first, name)) for name in "dgc"]
    assert [each["digests_agree"] for each in found] == [True, None, None]
    assert [each["identical"] for each in found] == [True, False, True]


def test_a_loss_and_per_example_values_are_not_compared():
    first = with_losses({"d": np.float32(1), "g": np.float32(1)}, {"y": output([1.0])})
    found = rows.compare((first, "d"), (first, "y"))
    assert found == {"digests_agree": None, "identical": False, "loss": None, "values": None}


def test_equal_losses_do_not_make_rows_identical_of_which_one_has_values():
    first = with_losses({"d": np.float32(1), "g": np.float32(1)}, {"d": output([1.0])})
    found = rows.compare((first, "d"), (first, "g"))
    assert (found["loss"]["agreement"], found["identical"]) == ("identical", False)


def provide(logdir):
    """TensorBoard's data provider over a logdir."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    return data_provider.MultiplexerDataProvider(multiplexer, str(logdir))


def show(capsys, *arguments):
    """What the command line prints, whatever its exit code."""
    main(list(map(str, arguments)))
    return capsys.readouterr().out


FIRST_LOSSES = {
    "ok": ([2.2, 2.4], 9.0),
    "high": ([4.0, 6.0], 9.0),
    "low": ([0.5, 1.0], 9.0),
    "non-finite": ([2.3, np.nan], 9.0),
    "constant": ([2.3, 2.3], 9.0),
    "infinite-total": ([2.2, 2.4], np.inf),
}
"""Per-example losses and the total loss, by the verdict on them where 2.3 is expected."""


@pytest.mark.parametrize("case", FIRST_LOSSES)
def test_the_tabs_verdict_is_that_of_check(case):
    values, loss = FIRST_LOSSES[case]
    first = FirstBatch(
        run="r",
        step=0,
        wall_time=1.0,
        losses={"loss": np.float32(loss)},
        outputs={"y": output(values)},
        metadata={"expected_loss": 2.3},
    )
    (row,), verdict = rows.to_json(first)["rows"], check(first, 2.3)
    found = row["verdict"]
    assert found["kind"] == verdict.kind == case.replace("infinite-total", "non-finite")
    assert (found["ok"], found["message"]) == (case == "ok", str(verdict))


def test_the_tabs_verdicts_are_those_that_the_command_prints(tmp_path, capsys):
    for case, (values, total) in FIRST_LOSSES.items():
        with contextlib.suppress(UnexpectedLossError):
            record(tmp_path / case, values, total=total, expect=2.3)
    printed = json.loads(show(capsys, "check", tmp_path, "--json"))
    _, text = recordings.Recordings(provide(tmp_path)).to_json(RequestContext(), "")
    shown = {recording["run"]: recording["rows"] for recording in json.loads(text)["recordings"]}
    assert len(shown) == len(FIRST_LOSSES)
    for verdict in printed:
        (row,) = shown[verdict["run"]]
        assert row["expected"] == verdict["expected"]
        assert row["verdict"] == {
            "ok": verdict["kind"] == "ok",
            "kind": verdict["kind"],
            "message": verdict["message"],
        }


@pytest.mark.parametrize("expected", [2.3, None, "log(", ["hostile"]], ids=str)
def test_without_a_single_value_to_judge_there_is_no_verdict(expected):
    outputs = {"x": output([1.0]), "y": output([2.0])}
    metadata = {} if expected is None else {"expected_loss": expected}
    first = FirstBatch(
        run="r", step=0, wall_time=1.0, losses={}, outputs=outputs, metadata=metadata
    )
    found = rows.to_json(first)
    assert [(row["expected"], row["verdict"]) for row in found["rows"]] == [(None, None)] * 2
    assert found["has_expectation"] is (expected is not None)


def test_one_number_is_no_verdict_on_several_losses():
    losses = {"d": np.float32(1), "g": np.float32(2)}
    found = rows.to_json(with_losses(losses, {"d": output([1.0, 2.0])}, expected_loss=1.5))
    assert [(row["expected"], row["verdict"]) for row in found["rows"]] == [(None, None)] * 2
    assert found["has_expectation"]


def judged(monkeypatch, first, **parts):
    """The rows' expectation and the kind of their verdict, for verdicts given by name."""
    worst = next(iter(parts.values()))
    monkeypatch.setattr(rows, "check_recorded", lambda _: dataclasses.replace(worst, parts=parts))
    found = rows.to_json(first)["rows"]
    return {r["name"]: (r["expected"], r["verdict"] and r["verdict"]["kind"]) for r in found}


def test_each_row_has_the_verdict_on_its_name(monkeypatch):
    first = with_losses(
        {"d": np.float32(1), "g": np.float32(2), "c": np.float32(3)}, expected_loss={"d": 1, "g": 4}
    )
    ok, low = (check(with_losses({"x": first.losses[n]}), e) for n, e in (("d", 1), ("g", 4)))
    assert judged(monkeypatch, first, g=low, d=ok) == {
        "d": (1, "ok"),
        "g": (4, "low"),
        "c": (None, None),
    }


@pytest.mark.parametrize("wrong", ["loss", "y", ""])
def test_a_row_of_a_loss_and_an_output_has_the_worse_verdict(monkeypatch, wrong):
    first = first_batch(np.float32(1), y=output([1.0, 3.0]))
    first = dataclasses.replace(first, metadata={"expected_loss": {"loss": 9, "y": 9}})
    ok, high = (check(with_losses({"x": np.float32(5)}), e) for e in (5, 1))
    parts = {name: high if name == wrong else ok for name in ("loss", "y")}
    found = judged(monkeypatch, first, **parts)
    assert found == {"loss": (1, "high") if wrong else (5, "ok")}


def test_the_page_is_told_of_every_loss_and_output():
    found = rows.to_json(
        with_losses({"d": np.float32(0.5), "g": np.float32(2)}, {"g": output([1.0, 3.0])})
    )
    (d, g) = found["rows"]
    assert (d["name"], d["names"], d["loss"], d["output"]) == ("d", ["d"], 0.5, None)
    assert (g["name"], g["names"], g["loss"], g["output"]["mean"]) == ("g", ["g"], 2, 2)
    (both,) = rows.to_json(first_batch(np.float32(1), y=output([1.0])))["rows"]
    assert (both["name"], set(both["names"])) == ("loss", {"loss", "y"})


@pytest.mark.parametrize(
    ("a", "b"),
    [(0, 0x80000000), (0x7FC00000, 0x7FC00001)],
    ids=["signed-zero", "nan-payload"],
)
def test_the_tab_and_the_command_count_the_same_bits(tmp_path, capsys, a, b):
    for name, bits in (("a", a), ("b", b)):
        values = np.array([bits, 0x3F800000, 0x40000000 + (name == "b")], np.uint32)
        record(tmp_path / name, values.view(np.float32), total=1.0)
    read = recordings.Recordings(provide(tmp_path)).read
    pair = [(read(RequestContext(), "", f"{name}/first_batch"), "loss") for name in "ab"]
    tab = rows.compare(*pair)["values"]
    (printed,) = json.loads(show(capsys, "compare", tmp_path / "a", tmp_path / "b", "--json"))
    values = printed["outputs"]["loss"]
    assert (tab["count"], tab["equal"], tab["equal_in_value"]) == (3, 1, 2)
    assert values["different_bits_count"] == tab["count"] - tab["equal"]
    assert values["different_count"] == tab["count"] - tab["equal_in_value"]
    (largest,) = values["worst"]
    assert tab["largest"] == {**largest, "difference": largest["value"] - largest["baseline"]}
    text = show(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert "  2 of 3, 1 in bits alone  " in text


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ({"a_row": "d", "b_row": "g"}, 200, '"agreement": "different"'),
        ({"a_row": "d", "b_row": "x"}, 404, "two/first_batch: no row 'x'"),
        ({"a_row": "d"}, 404, "two/first_batch: no row ''"),
        ({"a_row": "d", "b_row": "g", "b_run": "none"}, 404, "none: no such run"),
    ],
    ids=["losses", "no-such-row", "no-row", "no-run"],
)
def test_the_comparison_takes_names_of_rows(tmp_path, query, status, text):
    write_losses(tmp_path / "two", {"d": 1.0, "g": 2.0})
    plugin = FirstLossPlugin(base_plugin.TBContext(data_provider=provide(tmp_path)))
    runs = {"a_run": "two/first_batch", "b_run": "two/first_batch"}
    client = test.Client(plugin.get_plugin_apps()["/comparison"])
    answer = client.get("/", query_string={**runs, **query})
    assert answer.status_code == status
    assert text in answer.get_data(as_text=True)


def ask(plugin, **query):
    client = test.Client(plugin.get_plugin_apps()["/recordings"])
    return client.get("/", query_string=query)


def test_no_request_waits_for_a_slow_rebuild(tmp_path):
    record(tmp_path / "old", np.arange(3.0))
    provider = provide(tmp_path)
    plugin = FirstLossPlugin(base_plugin.TBContext(data_provider=provider))
    known = ask(plugin).get_json()
    list_tensors, ready = provider.list_tensors, threading.Event()
    provider.list_tensors = lambda *args, **kwargs: ready.wait() and list_tensors(*args, **kwargs)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: ask(plugin).get_json(), range(8)))
    assert time.monotonic() - began < 5
    assert answers == [known] * 8
    assert ask(plugin, have=known["version"]).get_json() == {"version": known["version"]}
    ready.set()
    assert ask(plugin).get_json() == known


def test_before_the_first_recordings_are_read_there_is_no_version(tmp_path):
    provider, ready = provide(tmp_path), threading.Event()
    provider.list_tensors = lambda *args, **kwargs: ready.wait() and {}
    plugin = FirstLossPlugin(base_plugin.TBContext(data_provider=provider))
    assert ask(plugin, have="").get_json() == {"version": "", "recordings": []}
    ready.set()


def test_an_error_of_a_refresh_reaches_the_request_and_not_the_next(tmp_path):
    record(tmp_path / "run", np.arange(3.0))
    provider = provide(tmp_path)
    plugin = FirstLossPlugin(base_plugin.TBContext(data_provider=provider))
    list_tensors, provider.list_tensors = provider.list_tensors, None
    with pytest.raises(TypeError):
        ask(plugin)
    provider.list_tensors = list_tensors
    assert len(ask(plugin).get_json()["recordings"]) == 1


@pytest.fixture
def written(tmp_path):
    """Two recordings, read through TensorBoard's data provider."""
    for name, count in (("small", 10), ("large", 1000)):
        record(tmp_path / name, np.arange(float(count)))
    return provide(tmp_path)


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
    large, small = (r["rows"][0]["output"] for r in json.loads(text)["recordings"])
    assert (large["count"], large["mean"]) == (1000, 499.5)
    assert "values" not in large
    assert len(small["values"]) == 10


def spoil(content):
    at = content.index(b"tensors/outputs/loss/per_example") + 60
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


SPOILT = {
    "bit": (spoil, "damaged: .* do not match their checksum"),
    "rubbish": (lambda _: b"\xa5" * 999, "damaged: corrupt header"),
    "empty": (lambda _: b"", "cut short: the event file is empty"),
    "within-a-record": (
        lambda content: content[: 16 + content[0] + 20],  # past the second record's header
        "cut short: truncated record",
    ),
    "after-a-record": (lambda content: content[: 16 + content[0]], "cut short: .*no manifest"),
}
"""What has happened to a file, and what the tab says of it."""


@pytest.mark.parametrize("age", [0, 3600], ids=["now", "long-ago"])
@pytest.mark.parametrize("case", SPOILT)
def test_a_recording_that_cannot_be_read_says_what_has_become_of_it(tmp_path, case, age):
    run_dir = Path(record(tmp_path, np.arange(64.0)))
    (file,) = run_dir.glob("events*")
    change, text = SPOILT[case]
    file.write_bytes(change(file.read_bytes()))
    os.utime(file, (time.time() - age,) * 2)
    read = recordings.Recordings(provide(tmp_path), str(tmp_path))
    (found,) = json.loads(read.to_json(RequestContext(), "")[1])["recordings"]
    assert found["run"] == "first_batch"
    writing = "being written, or just " if age == 0 and "cut" in text else ""
    assert re.match(writing + text, found["problem"])


def test_a_recording_that_tensorboard_has_not_read_yet_is_no_damage(tmp_path):
    empty = provide(tmp_path)
    record(tmp_path, np.arange(3.0))
    read = recordings.Recordings(empty, str(tmp_path))
    assert json.loads(read.to_json(RequestContext(), "")[1])["recordings"] == []


def test_a_failing_call_is_retried_run_by_run(written):
    read_tensors = written.read_tensors

    def fail_for_large(*args, run_tag_filter, **kwargs):
        if "large/first_batch" in run_tag_filter.runs:
            raise ValueError("broken")
        return read_tensors(*args, run_tag_filter=run_tag_filter, **kwargs)

    written.read_tensors = fail_for_large
    _, text = recordings.Recordings(written).to_json(RequestContext(), "")
    large, small = json.loads(text)["recordings"]
    assert large["problem"] == "TensorBoard cannot read it (broken)"
    assert small["rows"][0]["output"]["count"] == 10


def test_the_tab_reads_what_the_contract_names(written):
    found = recordings.Recordings(written).read(RequestContext(), "", "small/first_batch")
    assert found.per_example.tolist() == list(range(10))
    assert recordings.Recordings(written).read(RequestContext(), "", "none") == "no such run"
    assert contract.PLUGIN_NAME in written.list_plugins(RequestContext(), experiment_id="")


def test_no_run_is_asked_for_a_tensor_that_only_another_manifest_names(tmp_path):
    """TensorBoard fills a tensor whose one value stands for all: 80 bytes would cost a gibibyte."""
    names = {"a": "here", "b": "there"}
    for run, name in names.items():
        output = OutputLoss(per_example=np.arange(3.0))
        recording = contract.encode(first_batch(**{name: output}), tag="t", recording_id="id")
        manifest = shaped(7, [], string_val=[recording.manifest.encode()])
        bombs = [floats([1 << 28], [1.0])] * 2
        tensors = {
            "t/tensors/outputs/here/per_example": bombs[0],
            "t/tensors/outputs/there/per_example": bombs[1],
            "t/tensors/unnamed": bombs[0],
            **{tag: content(list(a.shape), a, 2) for tag, a in recording.tensors},
            contract.manifest_tag("t"): manifest,
        }
        values = [tensor(t, p, plugin_name=contract.PLUGIN_NAME) for t, p in tensors.items()]
        for value in values:
            value.metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
        write(tmp_path / run / "events.out.tfevents.1.host", version(), *map(event, values))
    provider = provide(tmp_path)
    read_tensors, asked = provider.read_tensors, set()

    def listen(*args, run_tag_filter, **kwargs):
        asked.update(itertools.product(run_tag_filter.runs, run_tag_filter.tags))
        return read_tensors(*args, run_tag_filter=run_tag_filter, **kwargs)

    provider.read_tensors = listen
    _, text = recordings.Recordings(provider).to_json(RequestContext(), "")
    assert [row["rows"][0]["output"]["mean"] for row in json.loads(text)["recordings"]] == [1, 1]
    assert {(run, tag) for run, tag in asked if "manifest" not in tag} == {
        (run, f"t/tensors/outputs/{name}/per_example") for run, name in names.items()
    }
