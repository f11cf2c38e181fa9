"""Hyperparameters of every writer, and how they get next to scalars."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import api, plugin_data_pb2, summary

import tb_firstloss
from tb_firstloss import errors
from tb_firstloss.cli import main
from tests.helpers.damaged_files import FILE_NAME
from tests.helpers.event_files import event, floats, simple, tensor, version, write

GOLDEN = Path(__file__).parent / "golden"
START, END = "_hparams_/session_start_info", "_hparams_/session_end_info"


def marked(tag, data):
    """A value as add_hparams writes it: metadata without content."""
    made = simple(tag, 0.0)
    made.ClearField("simple_value")
    made.metadata.plugin_data.plugin_name = "hparams"
    made.metadata.plugin_data.content = data.SerializeToString()
    return made


def start(trial_id="", **values):
    data = plugin_data_pb2.HParamsPluginData()
    data.session_start_info.group_name = trial_id
    for name, value in values.items():
        kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(data.session_start_info.hparams[name], kind, value)
    return marked(START, data)


def end(status):
    data = plugin_data_pb2.HParamsPluginData()
    data.session_end_info.status = status
    return marked(END, data)


@pytest.mark.parametrize("writer", ["pytorch", "tensorboardx"])
def test_add_hparams_makes_a_run_of_its_own(engine, writer):
    ((run, found),) = tb_firstloss.read_hparams(GOLDEN / writer).items()
    assert run != "."
    assert found == {"lr": 0.1, "optimizer": "sgd"}
    assert found.status == "success"


def test_tensorflows_plugin(engine, tmp_path):
    values = {"rate": 0.25, "units": 16, "optimizer": "adam", "bias": True}
    with tf.summary.create_file_writer(str(tmp_path / "trial")).as_default():
        api.hparams(values, trial_id="the first")
        tf.summary.experimental.write_raw_pb(
            summary.session_end_pb(2).SerializeToString(),
            step=0,  # STATUS_FAILURE
        )
    found = tb_firstloss.read_hparams(tmp_path)
    assert found == {"trial": values}
    assert [type(value) for value in found["trial"].values()] == [bool, str, float, float]
    assert (found["trial"].trial_id, found["trial"].status) == ("the first", "failure")


def test_lightning_writes_between_its_scalars(engine, tmp_path):
    scalars = [event(simple("loss", i), step=i) for i in range(200)]
    hparams = [event(start(lr=0.1, **{"model/depth": 3})), event(end(3))]
    first = [event(simple("hp_metric", -1)), *scalars[:100]]
    write(tmp_path / "version_0" / FILE_NAME, version(), *first, *hparams, *scalars[100:])
    found = tb_firstloss.read_hparams(tmp_path)
    assert found == {"version_0": {"lr": 0.1, "model/depth": 3.0}}
    assert found["version_0"].status == "running"
    assert len(tb_firstloss.read_scalars(tmp_path)) == 201


def test_what_is_not_known_is_none(engine, tmp_path):
    write(tmp_path / FILE_NAME, event(start(x=1)), event(end(0)))
    found = tb_firstloss.read_hparams(tmp_path)["."]
    assert (found, found.trial_id, found.status) == ({"x": 1.0}, None, None)


def test_of_two_starts_the_first_counts_as_in_tensorboard(engine, tmp_path):
    write(tmp_path / FILE_NAME, event(start(x=1)), event(start(x=2)))
    write(tmp_path / f"{FILE_NAME}.2", event(start(x=3)))
    assert tb_firstloss.read_hparams(tmp_path) == {".": {"x": 1.0}}


def test_of_two_ends_the_first_counts(engine, tmp_path):
    write(tmp_path / FILE_NAME, event(start(x=1)), event(end(2)))
    write(tmp_path / f"{FILE_NAME}.2", event(start(x=1)), event(end(1)))
    assert tb_firstloss.read_hparams(tmp_path)["."].status == "failure"


def test_what_is_left_out_for_its_size_is_reported(engine, tmp_path):
    write(tmp_path / "big" / FILE_NAME, event(start(x="z" * (1 << 20))))
    write(tmp_path / "small" / FILE_NAME, event(start(x=2)))
    with pytest.warns(errors.DamageWarning, match="left out for their size"):
        assert tb_firstloss.read_hparams(tmp_path) == {"small": {"x": 2.0}}


def test_runs_are_chosen_and_those_without_are_left_out(engine, tmp_path):
    for run in ("a", "b", "c/d"):
        write(tmp_path / run / FILE_NAME, event(start(name=run)))
    write(tmp_path / "none" / FILE_NAME, event(simple("x", 1.0), end(1)))
    assert list(tb_firstloss.read_hparams(tmp_path)) == ["a", "b", "c/d"]
    assert tb_firstloss.read_hparams(tmp_path, runs=["c/*", "none"]) == {"c/d": {"name": "c/d"}}
    with pytest.raises(FileNotFoundError):
        tb_firstloss.read_hparams(tmp_path / "missing")


def test_a_list_is_its_text_and_null_is_left_out(engine, tmp_path):
    made = start(x=1)
    data = plugin_data_pb2.HParamsPluginData.FromString(made.metadata.plugin_data.content)
    data.session_start_info.hparams["list"].list_value.values.add().number_value = 2
    data.session_start_info.hparams["null"].null_value = 0
    write(tmp_path / FILE_NAME, event(marked(START, data)))
    found = tb_firstloss.read_hparams(tmp_path)["."]
    assert found == {"x": 1.0, "list": "values { number_value: 2 }"}


def test_undecodable_ones_are_reported_and_hide_no_others(engine, tmp_path):
    bad = start(x=1)
    bad.metadata.plugin_data.content = b"\xff\xff"
    write(tmp_path / "bad" / FILE_NAME, event(bad))
    write(tmp_path / "good" / FILE_NAME, event(start(x=2)))
    with pytest.warns(errors.DamageWarning, match="hyperparameters not decoded"):
        assert tb_firstloss.read_hparams(tmp_path) == {"good": {"x": 2.0}}


@pytest.fixture
def trials(tmp_path):
    """Two trials as Keras writes them: scalars in runs below that of the hyperparameters."""
    logdir = tmp_path / "trials"
    for trial, rate in (("one", 0.5), ("two", 2.0)):
        beside = tensor("other", floats([2], [0, 0]))
        write(logdir / trial / FILE_NAME, version(), event(start(rate=rate), beside))
        for run in ("train", "validation"):
            write(logdir / trial / run / FILE_NAME, event(simple("loss", rate * 2), step=3))
    return logdir


@pytest.mark.parametrize("runs", [None, "*/train"], ids=["all", "chosen"])
def test_scalars_have_the_hyperparameters_of_the_run_above(engine, trials, runs):
    frame = tb_firstloss.read_scalars(trials, runs=runs).to_pandas(hparams=True)
    assert len(frame) == (4 if runs is None else 2)
    assert (frame["hparams/rate"] * 2 == frame["value"]).all()
    wide = tb_firstloss.read_scalars(trials, runs=runs).last().to_pandas(pivot=True, hparams=True)
    assert (wide["hparams/rate"] * 2 == wide["loss"]).all()


@pytest.mark.parametrize("several", [False, True], ids=["one path", "several paths"])
def test_export_puts_them_next_to_scalars(trials, capfd, several):
    paths = [str(trials / "one"), str(trials / "two")] if several else [str(trials)]
    assert main(["export", *paths, "--hparams", "--tag", "loss"]) == 0
    head, *rows = capfd.readouterr().out.splitlines()
    assert head == "run,tag,step,wall_time,value,hparams/rate"
    assert [row.split(",")[-2:] for row in rows] == [["1.0", "0.5"]] * 2 + [["4.0", "2.0"]] * 2


def test_damage_of_the_scalars_is_not_said_twice(trials, recwarn):
    (file,) = (trials / "one" / "train").iterdir()
    file.write_bytes(file.read_bytes() + b"junk" * 9)
    found = tb_firstloss.read_scalars(trials, on_damage="ignore")
    assert len(found.to_pandas(hparams=True)) == 4
    assert not recwarn.list


def test_reading_them_imports_no_tensorflow(trials):
    code = f"import sys, tb_firstloss; print(tb_firstloss.read_hparams({str(trials)!r}))"
    code += "; sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'one': {'rate': 0.5}, 'two': {'rate': 2.0}}\n"
