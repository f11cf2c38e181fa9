"""A model's train function that also returns what the first step's loss was made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.keras import library, step_loss
from tb_firstloss.capture.keras.hooks import temporary_attribute
from tb_firstloss.capture.keras.observe import Observation, keep_per_replica, observe
from tb_firstloss.capture.keras.stand_in import StandIn, places_kept
from tb_firstloss.errors import CaptureError

_LOGS, _TENSOR = "tb_firstloss/logs", "tb_firstloss/tensor/"

_MANY_VARIABLES = 24  # of a model whose step takes milliseconds: a dozen layers


class CapturingFunction(StandIn):
    """Train function, made by the model's ``make_train_function``, that also returns tensors.

    It calls the user's ``train_step`` and returns, next to the logs, tensors that the step has
    computed anyway, or under XLA copies of them. The step is traced once for the whole fit, in one
    of two ways:

    - Since Keras 3.7, into a separate tf.function. `make_successor` returns a train function that
      calls the traced step and returns only the logs, at no extra cost.
    - Otherwise this function stays (`take`) and discards its extra outputs, at about 50
      microseconds per step. The same goes for steps whose random operations keep a state, which
      lives in this function alone; under a distribution strategy; and for models with many
      variables, whose steps dwarf those microseconds, while TensorFlow would optimize a separate
      step once more for the successor.

    Args:
        model: Compiled model of Keras 3 or tf_keras.
        single_step: Whether to make it for one step per call, whatever the model says.
        forbid_random_state: Whether to refuse random operations that keep a state, because another
            function takes over.

    Attributes:
        facts: What the tensors are; None until the step has been traced.
        graph: The traced graph of one step, until `close`; None when run eagerly.
        failed_in_trace: Whether tracing the step failed, so that nothing of it has run.
        has_random_state: Whether it has refused to run because of its random state.
    """

    def __init__(
        self, model: Any, *, single_step: bool = False, forbid_random_state: bool = False
    ) -> None:
        super().__init__(model)
        self.facts: step_loss.StepFacts | None = None
        self.graph: tf.Graph | None = None
        self.failed_in_trace = False
        self.has_random_state = False
        self._train_step = model.train_step
        self._jit_compile = bool(model.jit_compile)
        self._single_step = single_step
        self._forbid_random_state = forbid_random_state
        self._capturing = True
        self._step: Callable[[Any], Any] = self._observed_step
        self._is_distributed = library.is_distributed(model)
        large = len(model.trainable_variables) > _MANY_VARIABLES and not single_step
        # Replicas, even a single one, meet in the optimizer: it cannot run inside one's function.
        stays = model.run_eagerly or self._is_distributed or large
        self._shares_step = library.binds_train_step(model) and not stays
        if self._shares_step:
            # Without AutoGraph, as Keras traces its steps.
            self._step = tf.function(
                self._observed_step,
                autograph=False,
                reduce_retracing=True,
                jit_compile=self._jit_compile,
            )
        self._function, self._tf_function = self._make(self._step, single_step=single_step)

    def __call__(self, iterator: Any) -> Any:
        """Returns the logs that the model's own train function would return."""
        return _split(self._function(iterator))[0]

    def run(self, iterator: Any) -> tuple[Any, step_loss.Tensors | None]:
        """Returns the logs and the tensors; None in their place if it was traced without them.

        Raises:
            CaptureError: The step keeps a random state and must not; nothing has run.
        """
        with self._in_model(self._step, single_step=self._single_step):
            if self._forbid_random_state and self.facts is None:
                self._refuse_random_state(iterator)
            result = self._function(iterator)
        return _split(result)

    def make_successor(self) -> Any | None:
        """Returns a train function that calls the traced step, or None if this one stays."""
        if not self._shares_step or self.graph is None:
            return None
        if step_loss.has_seeded_random_ops(self.graph):
            return None

        def step(data: Any) -> Any:
            return _split(self._step(data))[0]

        return self._make(step, single_step=False)[0]

    def close(self) -> None:
        """Ends the capture; what is traced from now on is the plain step."""
        self._capturing = False
        self.graph = None

    def _make(self, train_step: Callable[[Any], Any], *, single_step: bool) -> tuple[Any, Any]:
        """Returns a train function of a step, and the tf.function that tf_keras keeps with it."""
        model = self._model
        before = getattr(model, "train_tf_function", None)
        with self._in_model(train_step, single_step=single_step), places_kept(model):
            model.make_train_function(force=True)
            tf_function = getattr(model, "train_tf_function", None)
            return model.train_function, None if tf_function is before else tf_function

    @contextlib.contextmanager
    def _in_model(self, train_step: Callable[[Any], Any], *, single_step: bool) -> Iterator[None]:
        """Puts a step in the model: some versions of Keras look it up when they trace."""
        model = self._model
        with contextlib.ExitStack() as stack:
            stack.enter_context(temporary_attribute(model, "train_step", train_step))
            if single_step:
                one = temporary_attribute(model, "steps_per_execution", library.ONE_STEP)
                stack.enter_context(one)
            if self._shares_step:
                # The step itself is compiled, so that the successor finds it compiled.
                stack.enter_context(library.without_jit(model))
            if self._is_distributed:
                stack.enter_context(keep_per_replica(model, _TENSOR))
            yield

    def _refuse_random_state(self, iterator: Any) -> None:
        function = library.tf_function_of(self._function)
        if function is None:
            return  # run eagerly, the state is TensorFlow's
        # Only a trace that runs to its end initializes the optimizer's variables.
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
        by_xla = self._jit_compile and not eager
        self.facts, tensors = _gather(self._model, seen, logs, by_xla=by_xla)
        if not eager:
            self.graph = tf.compat.v1.get_default_graph()
        return _join(logs, tensors)


def _gather(
    model: Any, seen: Observation, logs: Any, *, by_xla: bool
) -> tuple[step_loss.StepFacts, step_loss.Tensors]:
    try:
        return step_loss.gather(model, seen, logs, by_xla=by_xla)
    except Exception as error:  # noqa: BLE001 - the step is done; private parts may have changed
        reason = f"the loss: what the step computed could not be read ({error!r})"
        return step_loss.StepFacts(missing=[reason]), {}


def _join(logs: Any, tensors: step_loss.Tensors) -> dict[str, Any]:
    """Returns logs and tensors in one flat dict; TensorFlow is slow at nested ones."""
    # TensorFlow sorts keys, and cannot sort ours among others than text.
    is_flat = type(logs) is dict and all(isinstance(key, str) for key in logs)
    flat = dict(logs) if is_flat else {_LOGS: logs}
    return {**flat, **{_TENSOR + name: tensor for name, tensor in tensors.items()}}


def _split(result: Any) -> tuple[Any, step_loss.Tensors | None]:
    """Undoes `_join`; the tensors are None in what was traced after `close`."""
    if type(result) is not dict:
        return result, None
    tensors = {}
    for name in [name for name in result if name.startswith(_TENSOR)]:
        tensors[name.removeprefix(_TENSOR)] = result.pop(name)
    return result.pop(_LOGS, result), tensors or None
