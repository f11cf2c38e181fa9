"""The graphs of a Keras model, and its profiles, through model.fit."""

import json

import keras
import pytest
import tf_keras
from tensorboard.plugins.graph import keras_util

from tb_firstloss import FirstLossCallback, iter_tensors, read_first_loss
from tb_firstloss.capture.keras.stand_in import LaterExecutions
from tb_firstloss.capture.window import graphs
from tests.capture.window.test_step_trace import (
    assert_nothing_is_left,
    operations,
    profiles,
    report,
    written_graphs,
)
from tests.helpers.profiles import marked_steps
from tests.helpers.training import batches


def make_model(library, **options):
    layers = library.layers
    model = library.Sequential([layers.Dense(3, name="hidden"), layers.Dense(1, name="last")])
    model.build((None, 4))
    model.compile("sgd", "mse", jit_compile=False, **options)
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)


def described_layers(directory):
    return [d.value.item() for d in iter_tensors(directory) if d.plugin_name == "graph_keras_model"]


@pytest.mark.parametrize(
    ("library", "traced"), [(keras, []), (tf_keras, [True])], ids=["keras", "tf_keras"]
)
def test_fit_gives_the_graph_of_one_step_and_the_layers(tmp_path, library, traced, ours):
    model = make_model(library)
    model.fit(batches(), verbose=0, callbacks=[FirstLossCallback(tmp_path, on_error="raise")])
    run_graph, trace_graphs = written_graphs(tmp_path)
    assert {"MatMul", "BiasAdd", "BiasAddGrad"} <= operations(run_graph)
    # With Keras 3, TensorFlow collects a function around the step, which shows nothing of it.
    assert ["BiasAddGrad" in operations(graph) for graph in trace_graphs] == traced
    (text,) = described_layers(tmp_path)
    drawn = keras_util.keras_model_to_graph_def(json.loads(text))
    assert {"hidden", "last"} <= {node.name.rpartition("/")[2] for node in drawn.node}
    assert ours() == []
    assert_nothing_is_left()


def test_a_model_that_tensorboard_cannot_draw_gives_no_layers(tmp_path):
    model = Subclassed()
    model.compile("sgd", "mse")
    model.fit(batches(), verbose=0, callbacks=[FirstLossCallback(tmp_path, on_error="raise")])
    assert described_layers(tmp_path) == []
    assert written_graphs(tmp_path)[0] is not None


def test_an_eager_model_gives_its_layers_and_one_line(tmp_path, ours):
    model = make_model(keras, run_eagerly=True)
    model.fit(batches(), verbose=0, callbacks=[FirstLossCallback(tmp_path, on_error="raise")])
    assert len(described_layers(tmp_path)) == 1
    assert ours() == [f"{tmp_path}/first_batch: no {graphs.NO_GRAPH}"]


def test_without_graph_there_are_no_layers_either(tmp_path):
    callback = FirstLossCallback(tmp_path, on_error="raise", graph=False)
    make_model(keras).fit(batches(), verbose=0, callbacks=[callback])
    assert (described_layers(tmp_path), written_graphs(tmp_path)) == ([], (None, []))


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_with_the_tensorboard_callback_both_work_and_it_has_the_profile(
    tmp_path, library, ours_first, caplog
):
    theirs = library.callbacks.TensorBoard(tmp_path / "theirs", profile_batch=1)
    ours = FirstLossCallback(tmp_path / "ours", on_error="raise")
    callbacks = [ours, theirs] if ours_first else [theirs, ours]
    make_model(library).fit(batches(), verbose=0, callbacks=callbacks)
    assert len(profiles(tmp_path / "theirs")) == 1
    assert profiles(tmp_path / "ours") == []
    assert read_first_loss(tmp_path / "ours").per_example.shape == (8,)
    assert "BiasAddGrad" in operations(written_graphs(tmp_path / "ours")[0])
    assert "another profiler is running" in report(tmp_path / "ours")
    assert "another profiler is running" in caplog.text


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_fit_profiles_the_warm_step_and_then_steps_aside(tmp_path, library):
    model = make_model(library)
    runs, counting = [], []

    class Watch(library.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            runs.append([path.parents[3].name for path in profiles(tmp_path)])
            counting.append(type(self.model.train_function).__name__ == "LaterExecutions")

    first = FirstLossCallback(tmp_path, on_error="raise", warm_step=2)
    model.fit(batches(count=4), verbose=0, callbacks=[first, Watch()])
    both = ["first_batch", "first_batch-warm"]
    assert runs == [["first_batch"], ["first_batch"], both, both]
    assert counting == [True, True, False, False]
    ((_, number, _),) = marked_steps(profiles(tmp_path)[1])
    assert number == 2
    assert "Warm step 2" in report(tmp_path / "first_batch-warm")
    assert_nothing_is_left()


def test_a_fit_that_ends_before_the_warm_step_says_so_and_gives_the_model_back(tmp_path, ours):
    model = make_model(keras)
    first = FirstLossCallback(tmp_path, on_error="raise", warm_step=20)
    model.fit(batches(), verbose=0, callbacks=[first])
    assert ours() == [f"{tmp_path}/first_batch: no warm profile: training ended before"]
    assert not isinstance(model.train_function, LaterExecutions)
    model.fit(batches(), verbose=0)
    assert not (tmp_path / "first_batch-warm").exists()
