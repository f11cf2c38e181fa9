"""FirstLossCallback: records the first batch of ``model.fit``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import tensorflow as tf

from tb_firstloss.capture import resume
from tb_firstloss.capture.keras import library
from tb_firstloss.capture.keras.first_execution import FirstExecution
from tb_firstloss.capture.recorder import DEFAULT_MAX_TENSOR_BYTES, Recorded, Recorder


class FirstLossCallback(Recorded, library.IdleCallback):
    """Records the loss of the first batch that ``model.fit`` trains on.

    ::

        first = FirstLossCallback("runs/mine")
        model.fit(dataset, callbacks=[first])
        first.first_batch.per_example

    The loss per example, its weights and mask, and the loss that is differentiated come out of the
    training step itself: no second forward pass, no other batch, and the same weights in the end.

    It is no subclass of a Callback, because Keras 3 and tf_keras have each their own and either
    takes any object with a callback's methods; so one class serves both, and importing this module
    imports neither.

    Args:
        logdir: Directory under which the run directory is created, local or of a scheme that
            TensorFlow knows (``gs://``). Resolved at once; ``~`` is expanded.
        tag: Name of the run directory and first component of every summary tag.
        step: Step of the summaries, or a callable that gives it when the first batch is captured.
        graph: Whether to record the step's graph.
        profile: Whether to profile the step, or ``tf.profiler.experimental.ProfilerOptions``.
        warm_step: Number of a later step that is profiled too, or None.
        expect: Expected mean loss: a number or an expression such as ``"log(10)"``; "auto" for
            what the loss function tells: ln K for a softmax cross-entropy over K classes, ln 2 for
            a binary one, and nothing, with a warning, for others. When the first loss is something
            else, that is an UnexpectedLossWarning.
        hparams: Hyperparameters for TensorBoard's HParams dashboard.
        metadata: Anything of yours that JSON can hold; it comes back in ``FirstBatch.metadata``.
        fingerprint: Whether to add a digest of the initial weights; fit's batch cannot be read
            without taking it away from training.
        max_tensor_bytes: Tensors above this many bytes are left out, with one warning.
        on_resume: What to do when fit goes on where an earlier process stopped: "skip" takes that
            one's recording, "record" records under a later step, "error" raises.
        on_error: "warn" lets training go on whatever fails here; "raise" is for CI.

    Raises:
        ValueError: An option is not usable, or Keras computes with another backend.
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
        expect: float | str | None = None,
        hparams: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        fingerprint: bool = False,
        max_tensor_bytes: int = DEFAULT_MAX_TENSOR_BYTES,
        on_resume: Literal["skip", "record", "error"] = "skip",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        library.check_backend()
        self._recorder = Recorder(
            logdir,
            tag=tag,
            step=step,
            graph=graph,
            profile=profile,
            warm_step=warm_step,
            expect=None if expect == "auto" else expect,
            hparams=hparams,
            metadata=metadata,
            fingerprint=fingerprint,
            max_tensor_bytes=max_tensor_bytes,
            on_resume=on_resume,
            on_error=on_error,
        )
        self._recorder.expects_auto = expect == "auto"
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
        """Takes the model, before fit has made its train function or restored a checkpoint."""
        self._finish()  # a fit that ended by an exception has not said so
        self.model = model
        self._train_function_before = getattr(model, "train_function", None)
        self._iterations_before = library.iterations_of(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's
        """Takes the train function's place, as late as fit says anything before a batch."""
        if self._over or self._execution is not None:
            return
        model, history = self.model, getattr(self.model, "history", None)
        self._execution = FirstExecution(
            model,
            self._recorder,
            source="model.fit",
            is_new=self._train_function_before is None,
            # Another fit has another history: this one ended before it came to a batch.
            before=lambda: getattr(model, "history", None) is history and self._begin(epoch),
        )

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's
        """Gives the train function back if fit has come to no batch."""
        self._finish()

    def _finish(self) -> None:
        if self._execution is not None:
            self._execution.give_back()
            self._over = self._execution.over
            self._execution = None

    def _begin(self, epoch: int) -> bool:
        """Decides inside the first train call, when every callback has restored what it restores.

        A callback cannot see which others there are, and it need not: whichever restores a
        checkpoint, the optimizer has been given batches that this process has not.
        """
        iterations = library.iterations_of(self.model)
        if epoch > 0:
            signs = f"fit begins with epoch {epoch}"
        elif iterations != self._iterations_before:
            signs = f"a callback has restored an optimizer after {iterations} batches"
        else:
            return True
        if self._recorder.on_resume == "error":
            resume.refuse(self._recorder, signs)
        with self._recorder.guard(f"{self.logdir}: the first loss was not recorded"):
            return resume.take_up(self._recorder, trained=iterations, signs=signs)
        return False
