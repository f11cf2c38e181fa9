"""A model's train function that gives, beside its logs, what its first step's loss was made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.keras import step_loss
from tb_firstloss.capture.keras.library import (
    ONE_STEP,
    binds_train_step,
    is_distributed,
    own_attribute,
    tf_function_of,
)
from tb_firstloss.capture.keras.observe import Observation, keep_per_replica, observe
from tb_firstloss.errors import CaptureError

_LOGS, _TENSOR = "tb_firstloss/logs", "tb_firstloss/tensor/"
_MADE = ("train_function", "train_tf_function")  # what make_train_function sets

_MANY_VARIABLES = 24  # of a model whose step takes milliseconds: a dozen layers


class CapturingFunction:
    """Train function, made by the model's own ``make_train_function``, that also returns tensors.

    It calls the user's ``train_step`` and hands out, beside the logs, tensors that the step has
    computed anyway, or under XLA copies of them. The step is traced once for the whole fit, in one
    of two ways:

    - Since Keras 3.7, into a tf.function of its own. `make_successor` gives the train function
      that goes on; it calls the traced step, returns the logs alone and costs nothing more.
    - Otherwise the function itself goes on (`stay`) and drops the tensors, some 50 microseconds a
      step. So it is, too, where random operations keep a state that only this function holds,
      under a distribution strategy, and for a large model: microseconds are nothing to its step,
      but TensorFlow optimizes a step in a function of its own once more for the successor.

    Args:
        model: Compiled model of Keras 3 or tf_keras.
        single_step: Whether to make it for one step a call, whatever the model says.
        forbid_random_state: Whether to refuse random operations that keep a state, because another
            function goes on with the training.

    Attributes:
        facts: What the tensors are, known once the step has been traced; None before.
        graph: The traced graph of one step, until it is dropped; None when run eagerly.
        failed_in_trace: Whether tracing the step failed, so that nothing of it has been run.
        has_random_state: Whether it has refused to run for its random state.
    """

    def __init__(
        self, model: Any, *, single_step: bool = False, forbid_random_state: bool = False
    ) -> None:
        self.facts: step_loss.StepFacts | None = None
        self.graph: tf.Graph | None = None
        self.failed_in_trace = False
        self.has_random_state = False
        self._model = model
        self._train_step = model.train_step
        self._jit_compile = bool(model.jit_compile)
        self._single_step = single_step
        self._forbid_random_state = forbid_random_state
        self._capturing = True
        self._step: Callable[[Any], Any] = self._observed_step
        self._is_distributed = is_distributed(model)
        large = len(model.trainable_variables) > _MANY_VARIABLES and not single_step
        # Replicas, be it a single one, meet in the optimizer, outside of any function of theirs.
        stays = model.run_eagerly or self._is_distributed or large
        self._shares_step = binds_train_step(model) and not stays
        if self._shares_step:
            # Keras traces its steps without AutoGraph, too.
            self._step = tf.function(
                self._observed_step,
                autograph=False,
                reduce_retracing=True,
                jit_compile=self._jit_compile,
            )
        self._function, self._inner = self._make(self._step, single_step=single_step)

    def __call__(self, iterator: Any) -> Any:
        """Returns the logs that the model's own train function would return."""
        return _split(self._function(iterator))[0]

    def run(self, iterator: Any) -> tuple[Any, step_loss.Tensors | None]:
        """Does the same and returns the logs and the tensors; None if it was traced without.

        Raises:
            CaptureError: It has a random state and must not; nothing has been run.
        """
        with self._in_model(self._step, single_step=self._single_step):
            if self._forbid_random_state and self.facts is None:
                self._refuse_random_state(iterator)
            result = self._function(iterator)
        return _split(result)

    def make_successor(self) -> Any | None:
        """Returns a train function that goes on with the traced step, or None if none should."""
        if not self._shares_step or self.graph is None:
            return None
        if step_loss.has_seeded_random_ops(self.graph):
            return None
        return self._make(lambda data: _split(self._step(data))[0], single_step=False)[0]

    def stay(self) -> None:
        """Becomes the model's train function for good."""
        self._model.train_function = self
        if self._inner is not None:
            self._model.train_tf_function = self._inner

    def close(self) -> None:
        """Ends the capture; what is traced from now on is the plain step."""
        self._capturing = False
        self.graph = None

    def __getattr__(self, name: str) -> Any:
        # Keras's TensorBoard callback looks for the parts of a tf.function in the train function.
        if name.startswith("__") or name == "_function":
            raise AttributeError(name)
        return getattr(self._function, name)

    def _make(self, train_step: Callable[[Any], Any], *, single_step: bool) -> tuple[Any, Any]:
        """Returns the train function and, of tf_keras, the tf.function that it names beside it."""
        model = self._model
        before = {name: getattr(model, name, None) for name in _MADE}
        with self._in_model(train_step, single_step=single_step):
            try:
                model.make_train_function(force=True)
                made = {name: getattr(model, name, None) for name in _MADE}
            finally:
                for name, value in before.items():
                    if hasattr(model, name):
                        setattr(model, name, value)
        inner = made["train_tf_function"]
        return made["train_function"], None if inner is before["train_tf_function"] else inner

    @contextlib.contextmanager
    def _in_model(self, train_step: Callable[[Any], Any], *, single_step: bool) -> Iterator[None]:
        """Puts our step in the model: some versions of Keras look it up when it is traced."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(own_attribute(self._model, "train_step", train_step))
            if single_step:
                stack.enter_context(own_attribute(self._model, "steps_per_execution", ONE_STEP))
            if self._shares_step:
                # The step is compiled by itself, so that its successor finds it compiled.
                stack.enter_context(own_attribute(self._model, "_jit_compile", False))
            if self._is_distributed:
                stack.enter_context(keep_per_replica(self._model, _TENSOR))
            yield

    def _refuse_random_state(self, iterator: Any) -> None:
        function = tf_function_of(self._function)
        if function is None:
            return  # run eagerly, the state is TensorFlow's own
        # Tracing to the end, and not stopping in it, is what initializes the optimizer's variables.
        function.get_concrete_function(iterator)
        if self.graph is not None and step_loss.has_seeded_random_ops(self.graph):
            self.has_random_state = True
            raise CaptureError("the step keeps a random state")

    def _observed_step(self, data: Any) -> Any:
        if not self._capturing:
            return self._train_step(data)
        eager = tf.executing_eagerly()
        try:
            with observe(self._model) as seen:
                logs = self._train_step(data)
        except BaseException:
            self.failed_in_trace = not eager
            raise
        self.facts, tensors = _gather(self._model, seen, by_xla=self._jit_compile and not eager)
        if not eager:
            self.graph = tf.compat.v1.get_default_graph()
        return _join(logs, tensors)


def _gather(
    model: Any, seen: Observation, *, by_xla: bool
) -> tuple[step_loss.StepFacts, step_loss.Tensors]:
    try:
        return step_loss.gather(model, seen, by_xla=by_xla)
    except Exception as error:  # noqa: BLE001 - the step is done; private parts may have changed
        reason = f"the loss: what the step computed could not be read ({error!r})"
        return step_loss.StepFacts([], [reason]), {}


def _join(logs: Any, tensors: step_loss.Tensors) -> dict[str, Any]:
    """Returns logs and tensors in one flat dict; TensorFlow is slow at nested ones."""
    flat = dict(logs) if type(logs) is dict else {_LOGS: logs}
    return {**flat, **{_TENSOR + name: tensor for name, tensor in tensors.items()}}


def _split(result: Any) -> tuple[Any, step_loss.Tensors | None]:
    """Undoes `_join`; without tensors where a batch of another shape was traced later."""
    if type(result) is not dict:
        return result, None
    tensors = {}
    for name in [name for name in result if name.startswith(_TENSOR)]:
        tensors[name.removeprefix(_TENSOR)] = result.pop(name)
    return result.pop(_LOGS, result), tensors or None
