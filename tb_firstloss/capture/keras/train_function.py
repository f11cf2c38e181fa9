"""A model's train function that also returns what the first step's loss was made of."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.keras import library, step_loss
from tb_firstloss.capture.keras.hooks import temporary_attribute
from tb_firstloss.capture.keras.observe import Observation, keep_per_replica, observe
from tb_firstloss.capture.keras.stand_in import StandIn, places_kept
from tb_firstloss.capture.signals import let_through
from tb_firstloss.errors import CaptureError

_LOGS, _TENSOR = "tb_firstloss/logs", "tb_firstloss/tensor/"

_MANY_VARIABLES = 24  # of a model whose step takes milliseconds: a dozen layers

_RANDOM_STATE = (
    "the training step draws seeded numbers with tf.random, whose state lives in the tf.function "
    "that draws; the second function that the capture needs here would draw the same numbers "
    "again. Use keras.random or the layers of Keras 3, or steps_per_execution=1"
)


class _OneStep(int):
    """One step per execution, built the way several are: since Keras 3.7, as a loop.

    For exactly 1 there is no loop, and at the end of the data everything that does not depend on
    the batch, such as counting the optimizer's iterations, has run once too often.
    """

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 1


class CapturingFunction(StandIn):
    """Train function, made by the model's ``make_train_function``, that also returns tensors.

    It calls the user's ``train_step`` and returns, next to the logs, tensors that the step has
    computed anyway, or under XLA copies of them. The step is traced once for the whole fit. Either
    `make_successor` returns a train function that calls the traced step and returns only the logs,
    or this function stays (`stay`) and discards its extra outputs. The README beside this file
    says when and why.

    Args:
        model: Compiled model of Keras 3 or tf_keras.
        single_step: Whether to make it for one step per call, whatever the model says.
        forbid_random_state: Whether another function takes over, which would repeat random numbers.

    Attributes:
        graph: The graph of one step as it was last traced; None when run eagerly.
        failed_in_trace: Whether the step failed when it was traced, so that nothing of it has run.
    """

    def __init__(
        self, model: Any, *, single_step: bool = False, forbid_random_state: bool = False
    ) -> None:
        super().__init__(model)
        self.graph: tf.Graph | None = None
        self.failed_in_trace = False
        self._train_step = model.train_step
        self._jit_compile = bool(model.jit_compile)
        self._single_step = single_step
        self._forbid_random_state = forbid_random_state
        self._closed = False
        self._facts: dict[frozenset[str], step_loss.StepFacts] = {}
        self._step: Callable[[Any], Any] = self._observed_step
        self._is_distributed = library.is_distributed(model)
        # Replicas, even a single one, meet in the optimizer: it cannot run inside one's function.
        stays = model.run_eagerly or self._is_distributed or not library.binds_train_step(model)
        self._shares_step = not stays and (single_step or not _has_many_variables(model))
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
        """Returns the logs and the tensors, or None if there are none.

        ``iterator`` is what Keras passes to a train function; a list of batches is one, too. A
        CaptureError says that the step keeps a random state and must not.
        """
        self.failed_in_trace = False
        with self._in_model(self._step, single_step=self._single_step):
            if self._forbid_random_state and not self._facts:
                if isinstance(iterator, list):  # Keras takes it, and TensorFlow cannot trace it
                    iterator = iter(tf.data.Dataset.from_tensors(*iterator))
                self._refuse_random_state(iterator)
            with let_through():
                result = self._function(iterator)
        return _split(result)

    def facts_of(self, tensors: step_loss.Tensors | None) -> step_loss.StepFacts:
        """Returns what is known of tensors that `run` returned."""
        unknown = step_loss.StepFacts(missing=["the loss: the step was traced without it"])
        return self._facts.get(frozenset(tensors or ()), unknown)

    def make_successor(self) -> Any | None:
        """Returns a train function that calls the traced step, or None if this one stays."""
        if not self._shares_step or self.graph is None or self._keeps_random_state():
            return None

        def step(data: Any) -> Any:
            return _split(self._step(data))[0]

        return self._make(step, single_step=False)[0]

    def stay(self) -> None:
        """Stays for the rest of the training, and for later ones."""
        if self._tf_function is not None:
            self._model.train_tf_function = self._tf_function

    def close(self) -> None:
        """Ends the capture; what is traced from now on is the plain step."""
        self._closed = True
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
                one = temporary_attribute(model, "steps_per_execution", _OneStep(1))
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
        with let_through():
            function.get_concrete_function(iterator)
        if self._keeps_random_state():
            self.failed_in_trace = True
            raise CaptureError(_RANDOM_STATE)

    def _keeps_random_state(self) -> bool:
        return self.graph is not None and step_loss.has_seeded_random_ops(self.graph)

    def _observed_step(self, data: Any) -> Any:
        if self._closed:
            return self._train_step(data)
        eager = tf.executing_eagerly()
        with contextlib.ExitStack() as stack:
            try:
                seen = stack.enter_context(observe(self._model))
            except Exception as error:  # noqa: BLE001 - private parts may have changed
                seen = Observation()
                seen.missing.append(f"the loss: the step cannot be observed ({error!r})")
            try:
                logs = self._train_step(data)
            except BaseException:
                self.failed_in_trace = not eager
                raise
        by_xla = self._jit_compile and not eager
        facts, tensors = _gather(self._model, seen, logs, by_xla=by_xla)
        self._facts[frozenset(tensors)] = facts
        if not eager:
            self.graph = tf.compat.v1.get_default_graph()
        return _join(logs, tensors)


def _has_many_variables(model: Any) -> bool:
    try:
        return len(model.trainable_variables) > _MANY_VARIABLES
    except Exception:  # noqa: BLE001 - the first batch creates them, or the property is the user's
        return False


def _gather(
    model: Any, seen: Observation, logs: Any, *, by_xla: bool
) -> tuple[step_loss.StepFacts, step_loss.Tensors]:
    # tf_keras traces its steps with AutoGraph, which would convert this package's code as well.
    gather = tf.autograph.experimental.do_not_convert(step_loss.gather)
    try:
        facts, tensors = gather(model, seen, logs, by_xla=by_xla)
    except Exception as error:  # noqa: BLE001 - the step is done; private parts may have changed
        reason = f"the loss: what the step computed could not be read ({error!r})"
        return step_loss.StepFacts(missing=[reason]), {}
    return facts, tensors


def _join(logs: Any, tensors: step_loss.Tensors) -> dict[str, Any]:
    """Returns logs and tensors in one flat dict; TensorFlow is slow at nested ones."""
    # TensorFlow sorts keys, and cannot sort ours among others than text.
    is_flat = type(logs) is dict and all(isinstance(key, str) for key in logs)
    flat = dict(logs) if is_flat else {_LOGS: logs}
    return {**flat, **{_TENSOR + name: tensor for name, tensor in tensors.items()}}


def _split(result: Any) -> tuple[Any, step_loss.Tensors | None]:
    """Undoes `_join`; the tensors are None where there are none."""
    if type(result) is not dict:
        return result, None
    ours = [name for name in result if name.startswith(_TENSOR)]
    tensors = {name.removeprefix(_TENSOR): result.pop(name) for name in ours}
    return result.pop(_LOGS, result), tensors or None
