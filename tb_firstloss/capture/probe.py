"""probe: the loss of a batch without training on it, and without changing model or random state."""

import contextlib
import dataclasses
import inspect
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss.capture.environment import describe_environment
from tb_firstloss.capture.expectation import NOT_SEEN, Expectation
from tb_firstloss.capture.keras import observe, step_loss
from tb_firstloss.capture.keras.expectation import infer_expectation
from tb_firstloss.capture.keras.library import library_of
from tb_firstloss.capture.options import Options, check_expect
from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.capture.step.result import Captured, StepResult
from tb_firstloss.first_batch import FirstBatch

RUN = "probe"
"""Run and tag of what `probe` writes, so that nobody takes it for training's first batch."""


def probe(
    model: Callable[..., Any],
    batch: Any,
    *,
    loss: Callable[..., Any] | None = None,
    logdir: str | os.PathLike[str] | None = None,
    training: bool = True,
    expect: float | str | Mapping[str, float | str] | None = None,
) -> FirstBatch:
    """Computes the loss of one batch without training on it.

    ::

        probe(model, (x, y)).mean

    One forward pass, no update. Whatever the pass changes is put back, bit for bit: weights,
    BatchNorm statistics, metrics, seed generators, the optimizer, and the random streams of
    TensorFlow, Keras, NumPy and Python. A Keras model that is not built yet gets built, as its
    first training step would build it.

    Args:
        model: Keras model, or a callable such as a tf.Module.
        batch: ``(x, y)``, ``(x, y, sample_weight)`` or ``x``, as a dataset yields it.
        loss: Keras Loss, or a function of (y_true, y_pred) that returns the loss per example,
            [batch, …], or a scalar. None takes the loss that the model is compiled with.
        logdir: Directory in which to record it as run "probe"; None to record nothing.
        training: Whether the model runs as in training (dropout on) or as in inference.
        expect: What the loss should be, as `FirstLossCallback` takes it; an UnexpectedLossWarning
            reports a loss that differs.

    Returns:
        The loss per example by output; for a compiled model also the total, with regularisers.

    Raises:
        ValueError: No ``loss`` and no compiled model, or an unusable ``expect``.
        LossNotFoundError: The loss does not consist of real numbers.
    """
    library = library_of(model)
    if loss is None and (library is None or getattr(model, "optimizer", None) is None):
        raise ValueError("probe: the model is not compiled, so its loss is unknown; give loss=")
    expect = check_expect(expect)
    parts = _unpack(batch)
    forward = _compiled_loss if loss is None else _given_loss(loss)
    with _surroundings_restored(streams=bool(getattr(model, "built", True))):
        traced = _Traced()
        function = tf.function(lambda: forward(model, _symbolic(parts), training, traced))
        concrete = function.get_concrete_function()
        with _variables_restored(concrete, model):
            result = concrete()
    facts = traced.facts
    taken = StepResult(result) if facts is None else step_loss.StepTensors(facts, result)
    expectation = traced.expectation if isinstance(expect, str) else Expectation(expect)
    metadata = {"source": "probe", "training": training, **expectation.metadata()}
    first = _make_first_batch(taken.captured(), metadata, logdir)
    expectation.judge(first, where=RUN)
    return first


@dataclasses.dataclass
class _Traced:
    """What tracing the pass reveals about the loss."""

    facts: step_loss.StepFacts | None = None
    expectation: Expectation = NOT_SEEN


def _compiled_loss(model: Any, batch: Any, training: bool, traced: _Traced) -> step_loss.Tensors:
    x, y, sample_weight = batch
    with observe.observe(model) as seen:
        arguments = {"x": x, "y": y, "y_pred": model(x, training=training)}
        if "training" in inspect.signature(model.compute_loss).parameters:
            arguments["training"] = training
        model.compute_loss(sample_weight=sample_weight, **arguments)
    gather = tf.autograph.experimental.do_not_convert(step_loss.gather)
    facts, tensors = gather(model, seen)
    traced.facts, traced.expectation = facts, facts.expectation
    return dict(tensors)


def _given_loss(loss: Callable[..., Any]) -> Callable[..., Any]:
    # Calling a Keras Loss reduces; its call method is the public, unreduced form.
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
        raise ValueError(
            f"probe: the batch has {len(batch)} parts; give x, (x, y) or (x, y, sample_weight)"
        )
    return (*batch, None, None)[:3]


def _symbolic(parts: tuple[Any, Any, Any]) -> Any:
    """Returns the batch as tensors of the graph being built: a function returns no others."""
    return tf.nest.map_structure(
        lambda part: None if part is None else tf.identity(part), parts, expand_composites=True
    )


@contextlib.contextmanager
def _surroundings_restored(*, streams: bool) -> Iterator[None]:
    """Runs tf.functions as graphs inside, and restores Python's and NumPy's random streams.

    The pass is one new function, so that its random operations keep their state and take their
    seeds inside it; run eagerly, they would advance the global stream. Keras seeds new layers from
    Python's and NumPy's.
    """
    with contextlib.ExitStack() as stack:
        if streams:
            stack.callback(random.setstate, random.getstate())
            stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(tf.config.run_functions_eagerly, tf.config.functions_run_eagerly())
        tf.config.run_functions_eagerly(False)
        yield


@contextlib.contextmanager
def _variables_restored(concrete: Any, model: Any) -> Iterator[None]:
    """Restores every variable that the function or the model holds.

    A function changes no variable that it has not captured, so this covers metrics, seed generators
    and whatever else the user's code holds.
    """
    variables = {}
    for variable in (*concrete.graph.variables, *getattr(model, "variables", ())):
        if not isinstance(variable, tf.Variable):
            variable = getattr(variable, "value", variable)  # a Variable of Keras 3
        variables[id(variable)] = variable
    with contextlib.ExitStack() as stack:
        for variable in variables.values():
            stack.callback(variable.assign, tf.identity(variable))
        yield


def _make_first_batch(
    captured: Captured, metadata: dict[str, Any], logdir: str | os.PathLike[str] | None
) -> FirstBatch:
    if logdir is None:
        facts = {**describe_environment(), **captured.describe_batch(), **metadata}
        return captured.as_first_batch(run=RUN, metadata=facts)
    quiet = Options(logdir=logdir, tag=RUN, graph=False, profile=False, on_error="raise")
    return Recorder(quiet).commit(captured, metadata=metadata)
