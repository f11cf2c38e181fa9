"""FirstLossCallback: records the first batch of ``model.fit``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import tensorflow as tf

from tb_firstloss.capture import resume
from tb_firstloss.capture.keras import library
from tb_firstloss.capture.keras.first_execution import FirstExecution
from tb_firstloss.capture.options import DEFAULT_MAX_TENSOR_BYTES, Options
from tb_firstloss.capture.recorder import Recorded, Recorder


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

    Args:
        logdir: Directory under which the run directory is created: a local path, or a URL of a
            scheme that TensorFlow can write to (``gs://``). Resolved at once; ``~`` is expanded.
        tag: Name of the run directory, and first component of every summary tag.
        step: Step of the summaries, or a callable that returns it, called with the first batch.
        graph: Whether to record the step's graph.
        profile: Whether to profile the step, or ``tf.profiler.experimental.ProfilerOptions``.
        warm_step: Number of a later step to profile as well, or None.
        expect: Expected mean loss: a number, an expression such as ``"log(10)"``, or a mapping from
            names of losses to these. "auto" infers it from the loss function: ln K for a softmax
            cross-entropy over K classes, ln 2 for a binary one; for any other loss, a warning says
            that nothing is expected. An UnexpectedLossWarning reports a first loss that differs.
        hparams: Hyperparameters for TensorBoard's HParams dashboard.
        metadata: Anything that JSON can hold; ``FirstBatch.metadata`` returns it.
        fingerprint: Whether to add a digest of the initial weights. The batch is left alone:
            reading it would take it away from training.
        max_tensor_bytes: Size above which a tensor is left out, with one warning.
        on_resume: What a resumed fit does: "skip" keeps the earlier recording, "record" records
            under a later step, "error" raises.
        on_error: "warn" turns every failure of the capture into a warning, and training goes on;
            "raise", meant for CI, raises it.

    Raises:
        ValueError: An option is unusable, or Keras computes with another backend.
        TypeError: An option has the wrong type.
    """

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
        library.check_backend()
        self._recorder = Recorder(Options(**given))
        self.model: Any = None
        self.params: Mapping[str, Any] | None = None
        self._over = False
        self._execution: FirstExecution | None = None
        self._train_function_before: Any = None
        self._iterations_before = 0

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Takes fit's parameters."""
        self.params = params

    def set_model(self, model: Any) -> None:
        """Takes the model, before fit makes its train function or restores a checkpoint."""
        self._finish()  # an exception may have ended an earlier fit without on_train_end
        self.model = model
        self._train_function_before = getattr(model, "train_function", None)
        self._iterations_before = library.iterations_of(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's
        """Takes the train function's place: the last hook before the first batch."""
        if self._over or self._execution is not None:
            return
        model, history = self.model, getattr(self.model, "history", None)
        self._execution = FirstExecution(
            model,
            self._recorder,
            source="model.fit",
            is_new=self._train_function_before is None,
            # Another history means another fit: this one ended before its first batch.
            before=lambda: getattr(model, "history", None) is history and self._begin(epoch),
        )

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's
        """Gives the train function back if fit has trained on no batch."""
        self._finish()

    def _finish(self) -> None:
        if self._execution is not None:
            self._execution.give_back()
            self._over = self._execution.over
            self._execution = None

    def _begin(self, epoch: int) -> bool:
        """Returns whether to record; the first train call asks, once callbacks have restored.

        Whichever callback restores a checkpoint, the optimizer has then trained on batches that
        this process has not.
        """
        iterations = library.iterations_of(self.model)
        if epoch > 0:
            signs = f"fit begins with epoch {epoch}"
        elif iterations != self._iterations_before:
            signs = f"a callback has restored an optimizer after {iterations} batches"
        else:
            return True
        return resume.may_record(self._recorder, signs, trained=iterations)
