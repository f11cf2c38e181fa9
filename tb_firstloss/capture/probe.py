"""The loss of a batch by one forward pass that changes neither the model nor a random stream."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss import checks
from tb_firstloss.capture import step_result
from tb_firstloss.capture.environment import describe_environment
from tb_firstloss.capture.expectation import NOT_SEEN, Expectation
from tb_firstloss.capture.keras import observe, step_loss
from tb_firstloss.capture.keras.expectation import infer_expectation
from tb_firstloss.capture.keras.library import library_of
from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.first_batch import FirstBatch

RUN = "probe"
"""Run and tag of what `probe` writes, so that it is never taken for training's first batch."""


def probe(
    model: Callable[..., Any],
    batch: Any,
    *,
    loss: Callable[..., Any] | None = None,
    logdir: str | os.PathLike[str] | None = None,
    training: bool = True,
    expect: float | str | None = None,
) -> FirstBatch:
    """Computes the loss of one batch without training on it.

    One forward pass and no update. Afterwards every variable that the pass could reach (weights,
    BatchNorm statistics, metrics, seed generators), the optimizer, and the random streams of
    TensorFlow, Keras, NumPy and Python are as before, bit for bit. A Keras model that is not built
    yet is built, as its first training step would.

    Args:
        model: Keras model, or a callable such as a tf.Module.
        batch: ``(x, y)``, ``(x, y, sample_weight)``, or ``x`` alone, as a dataset gives it.
        loss: Keras Loss, or a function of (y_true, y_pred) that returns the loss per example,
            [batch, …], or a scalar. None takes the loss that the model is compiled with.
        logdir: Where to write it, as run "probe"; None for nowhere.
        training: Whether to run the model as in training (dropout on) or as in inference.
        expect: Expected mean loss: a number, an expression such as ``"log(10)"``, or "auto" for
            what the loss function tells: ln K for a softmax cross-entropy over K classes, ln 2 for
            a binary one, and nothing, with a warning, for others. When the loss is something else,
            that is an UnexpectedLossWarning.

    Returns:
        The loss: per example by output, and the total (regularisers in it) for a compiled model.

    Raises:
        ValueError: There is neither ``loss`` nor a compiled model, or ``expect`` is not usable.
        LossNotFoundError: The loss is not made of numbers.
    """
    library = library_of(model)
    if loss is None and (library is None or getattr(model, "optimizer", None) is None):
        raise ValueError("probe: the model is not compiled, so its loss is not known; give loss=")
    given = Expectation(None)
    if expect is not None and expect != "auto":
        given = Expectation(checks.parse_expectation(expect))
    parts = _unpack(batch)
    forward = _compiled_loss if loss is None else _given_loss(loss)
    was_built = bool(getattr(model, "built", True))
    with _python_random_streams(restore=was_built), _in_graph():
        traced = _Traced()
        function = tf.function(lambda: forward(model, _symbolic(parts), training, traced))
        concrete = function.get_concrete_function()
        with _variables_restored(concrete, model):
            result = concrete()
    facts = traced.facts
    captured = step_result.select(result) if facts is None else step_loss.to_arrays(facts, result)
    expectation = traced.expectation if expect == "auto" else given
    return _finish(captured, logdir, training, expectation)


@dataclasses.dataclass
class _Traced:
    """What is learned of the loss while the pass is traced."""

    facts: step_loss.StepFacts | None = None
    expectation: Expectation = NOT_SEEN


def _compiled_loss(model: Any, batch: Any, training: bool, traced: _Traced) -> step_loss.Tensors:
    x, y, sample_weight = batch
    with observe.observe(model) as seen:
        arguments = {"x": x, "y": y, "y_pred": model(x, training=training)}
        if "training" in inspect.signature(model.compute_loss).parameters:
            arguments["training"] = training
        model.compute_loss(sample_weight=sample_weight, **arguments)
    facts, tensors = step_loss.gather(model, seen)
    traced.facts, traced.expectation = facts, facts.expectation
    return tensors


def _given_loss(loss: Callable[..., Any]) -> Callable[..., Any]:
    # A Keras Loss reduces when it is called; its call method is the public, unreduced form.
    per_example = loss.call if library_of(loss) is not None and hasattr(loss, "call") else loss

    def forward(model: Any, batch: Any, training: bool, traced: _Traced) -> Any:
        x, y, _ = batch
        predicted = _call(model, x, training)
        traced.expectation = infer_expectation(loss, getattr(predicted, "shape", None))
        return per_example(y, predicted)

    return forward


def _call(model: Callable[..., Any], x: Any, training: bool) -> Any:
    if library_of(model) is not None:
        return model(x, training=training)
    call = model.__call__ if hasattr(model, "variables") else model  # type: ignore[operator]
    accepts = "training" in inspect.signature(call).parameters
    return model(x, training=training) if accepts else model(x)


def _unpack(batch: Any) -> tuple[Any, Any, Any]:
    batch = batch if isinstance(batch, tuple) else (batch,)
    if not 1 <= len(batch) <= 3:
        raise ValueError(f"probe: a batch of {len(batch)} parts; give x, (x, y) or (x, y, weight)")
    return (*batch, None, None)[:3]


def _symbolic(parts: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Returns the batch as tensors of the graph being built; only those can be given back."""
    x, y, sample_weight = tf.nest.map_structure(
        lambda part: None if part is None else tf.identity(part), parts, expand_composites=True
    )
    return x, y, sample_weight


@contextlib.contextmanager
def _python_random_streams(*, restore: bool) -> Iterator[None]:
    """Keeps the streams of Python and NumPy, from which Keras takes the seeds of new layers."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        if restore:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextlib.contextmanager
def _in_graph() -> Iterator[None]:
    """Makes sure that tf.functions are functions.

    The whole pass is one new function because random operations in it then keep their state and
    take their seeds inside it; run eagerly they would advance the global stream.
    """
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(eagerly)


@contextlib.contextmanager
def _variables_restored(concrete: Any, model: Any) -> Iterator[None]:
    """Puts back every variable that the function or the model holds, when the block ends.

    A function can only change variables that it has captured, so no list of places to look at
    (metrics, seed generators, a generator of the user's) could be more complete.
    """
    found: Sequence[Any] = [*concrete.graph.variables, *getattr(model, "variables", ())]
    variables = {id(v): v for v in (getattr(v, "value", v) if _is_keras(v) else v for v in found)}
    before = [(variable, tf.identity(variable)) for variable in variables.values()]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _is_keras(variable: Any) -> bool:
    """Tells whether a variable is a Keras 3 Variable, which holds a tf.Variable in .value."""
    return not isinstance(variable, tf.Variable)


def _finish(
    captured: step_result.Captured,
    logdir: str | os.PathLike[str] | None,
    training: bool,
    expectation: Expectation,
) -> FirstBatch:
    metadata = {"source": "probe", "training": training, **expectation.metadata()}
    if logdir is None:
        first = FirstBatch(
            run=RUN,
            step=0,
            wall_time=time.time(),
            loss=captured.loss,
            outputs=captured.outputs,
            metadata={**describe_environment(), **metadata},
        )
    else:
        recorder = Recorder(logdir, tag=RUN, graph=False, profile=False, on_error="raise")
        recorder.commit(loss=captured.loss, outputs=captured.outputs, metadata=metadata)
        assert recorder.first_batch is not None
        first = recorder.first_batch
    expectation.judge(first, where=RUN)
    return first
