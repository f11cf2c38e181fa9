import tensorflow as tf

from tb_firstloss import FirstLoss, read_first_loss
from tb_firstloss.capture.window import tensorflow_private

NAMES = ("graph_collector", "running_trace", "running_profiler", "op_determinism")


def test_this_tensorflow_has_all_of_them():
    assert tensorflow_private.graph_collector() is not None
    assert tensorflow_private.op_determinism() is False
    assert tensorflow_private.running_trace() is None
    assert tensorflow_private.is_default_strategy(tf.distribute.get_strategy())
    assert not tensorflow_private.is_default_strategy(tf.distribute.OneDeviceStrategy("CPU:0"))
    function = tf.function(lambda: tf.constant(1.0))
    graph = function.get_concrete_function().graph
    assert [one.graph for one in tensorflow_private.concrete_functions(function)] == [graph]
    tf.summary.trace_on(graph=True)
    try:
        assert tensorflow_private.running_trace() is not None
    finally:
        tf.summary.trace_off()
        tensorflow_private.graph_collector().disable_graph_collection()


def test_a_tensorflow_without_them_still_records_and_says_what_is_missing(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(tensorflow_private, "_module", lambda name: None)
    assert [getattr(tensorflow_private, name)() for name in NAMES] == [None] * 4
    assert not tensorflow_private.concrete_functions(lambda: None)
    step = FirstLoss(tmp_path, profile=False, on_error="raise").wrap(lambda: tf.constant(1.0))
    step()
    assert read_first_loss(tmp_path).loss == 1
    assert "no graph trace: this version of TensorFlow" in caplog.text


def test_a_module_that_is_gone_is_none():
    assert tensorflow_private._module("tensorflow.python.nothing_like_it") is None
