"""FirstLossCallback: records the first batch of ``model.fit``."""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import tensorflow as tf

from tb_firstloss.capture import resume
from tb_firstloss.capture.keras import library
from tb_firstloss.capture.keras.first_execution import FirstExecution
from tb_firstloss.capture.keras.stand_in import when_made
from tb_firstloss.capture.notices import tell
from tb_firstloss.capture.options import DEFAULT_MAX_TENSOR_BYTES, Options
from tb_firstloss.capture.recorded import Recorded
from tb_firstloss.capture.recorder import Recorder


class FirstLossCallback(Recorded, library.IdleCallback):
    """Records the loss of the first batch that ``model.fit`` trains on.

    ::

        first = FirstLossCallback("runs/mine")
        model.fit(dataset, callbacks=[first])
        first.first_batch.per_example

    The per-example loss, its weights and mask, and the differentiated loss come out of the training
    step itself: no second forward pass, no extra batch, the same weights in the end.

    It works with Keras 3 and with tf_keras. It subclasses neither's Callback: both take any object
    with a callback's methods, and importing this module imports neither.

    The options are those of `FirstLoss`, without ``strategy``, which the model has. These differ:

    Args:
        expect: As there, or "auto", which infers it from the loss function: ln K for a softmax
            cross-entropy over K classes, ln 2 for a binary one; for any other loss, a warning says
            that nothing is expected.
        fingerprint: Whether to add a digest of the initial weights. The batch is left alone:
            reading it would take it away from training.
        on_resume: What a resumed fit does; the first epoch and the optimizer show that it is one.

    Raises:
        ValueError: An option is unusable, or Keras computes with another backend.
        TypeError: An option has the wrong type.
    """

    _left_out = ("_execution", "_history", "model")

    def __init__(
        self,
        logdir: str | os.PathLike[str],
        *,
        tag: str = "first_batch",
        step: int | Callable[[], int] = 0,
        graph: bool = True,
        profile: bool | tf.profiler.experimental.ProfilerOptions = True,
        warm_step: int | None = None,
        expect: float | str | Mapping[str, float | str] | None = None,
        hparams: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        fingerprint: bool = False,
        max_tensor_bytes: int = DEFAULT_MAX_TENSOR_BYTES,
        on_resume: Literal["skip", "record", "error"] = "skip",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        _check_backend()
        self._recorder = Recorder(Options(**given))
        self.model: Any = None
        self.params: Mapping[str, Any] | None = None
        self._over = False
        self._told = False
        self._training = False
        self._epoch = 0
        self._history: Any = None
        self._iterations_before = 0
        self._waiting = contextlib.ExitStack()
        self._execution: FirstExecution | None = None
        self._remind(
            "no model.fit trained on a batch with this callback; give it to model.fit, or wrap the "
            "step of a training loop of your own with FirstLoss.wrap"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_waiting": contextlib.ExitStack()}

    def set_params(self, params: Mapping[str, Any] | None = None) -> None:
        """Takes fit's parameters."""
        self.params = params

    def set_model(self, model: Any = None) -> None:
        """Takes the model, before fit makes its train function or restores a checkpoint."""
        if model is None:
            raise TypeError(
                "callbacks: FirstLossCallback is a class; give an instance, such as "
                "FirstLossCallback('runs/mine')"
            )
        self._leave()  # an exception may have ended an earlier fit without on_train_end
        self.model = model
        self._history = getattr(model, "history", None)
        self._iterations_before = library.iterations_of(model)
        if not self._over:
            self._waiting.enter_context(when_made(model, self._take))

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's
        """Notes that what follows is training."""
        self._training = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's
        """Makes sure of the train function's place: the last hook before the first batch."""
        self._epoch = epoch
        if self._execution is not None:
            self._execution.retake()
        elif getattr(self.model, "train_function", None) is not None:
            self._take(is_new=False)

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's
        """Gives the train function back, and says so if fit has not trained with it."""
        self._end("model.fit")

    def on_test_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's
        """Says that evaluation trains on nothing, unless it is a part of training."""
        if not self._training:
            self._end("model.evaluate")

    def on_predict_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's
        """Says that prediction trains on nothing, unless it is a part of training."""
        if not self._training:
            self._end("model.predict")

    def _take(self, *, is_new: bool) -> None:
        """Takes the place of the train function for the first batch, unless it is past."""
        if not self._over and self._execution is None and self._is_this_fit():
            self._execution = FirstExecution.in_place(self.model, "model.fit", is_new=is_new)
            self._execution.add(self._recorder, before=self._begin)

    def _is_this_fit(self) -> bool:
        # Another history means another fit: this one ended before its first batch.
        return getattr(self.model, "history", None) is self._history

    def _leave(self) -> FirstExecution | None:
        """Leaves the model alone, and returns what held the place of its train function."""
        self._waiting.close()
        execution, self._execution = self._execution, None
        self._training = False
        if execution is not None:
            execution.give_back()
            self._over = self._over or execution.over
        return execution

    def _end(self, what: str) -> None:
        execution = self._leave()
        if self._over or self._told:
            return
        self._told, self._recorder.unsaid = True, None
        reason = (
            "the model's train function was not called; wrap the step of a training loop of your "
            "own with FirstLoss.wrap"
        )
        if what != "model.fit":
            reason = "it trains on no batch; give the callback to model.fit"
        elif execution is not None and execution.had_no_batch:
            reason = "there was no batch to train on; check the dataset"
        tell(
            f"{self.logdir}: no first loss of {what} was recorded: {reason}",
            self._recorder.options.on_error,
        )

    def _begin(self) -> bool:
        """Returns whether to record; the first train call asks, once callbacks have restored.

        Whichever callback restores a checkpoint, the optimizer has then trained on batches that
        this process has not.
        """
        if not self._is_this_fit():
            self._execution = None  # whose batch belongs to a fit without this callback
            return False
        iterations = library.iterations_of(self.model)
        if self._epoch > 0:
            signs = f"fit begins with epoch {self._epoch}"
        elif iterations != self._iterations_before:
            signs = f"a callback has restored an optimizer after {iterations} batches"
        else:
            return True
        return resume.may_record(self._recorder, signs, trained=iterations)


def _check_backend() -> None:
    """Makes sure that Keras computes with TensorFlow.

    Raises:
        ValueError: Keras 3 is set to another backend, and tf_keras is not in use.
    """
    keras = sys.modules.get("keras")
    if keras is None:
        # Importing it for the question would cost seconds; a model of Keras 3 cannot exist yet.
        backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    else:
        backend = keras.config.backend()
    if backend != "tensorflow" and "tf_keras" not in sys.modules:
        raise ValueError(
            f"FirstLossCallback: Keras computes with {backend}; only TensorFlow is supported: set "
            "KERAS_BACKEND=tensorflow before importing Keras"
        )
