"""``model.train_on_batch``, whose first call is captured the way ``model.fit``'s is."""

import contextlib
from collections.abc import Callable
from typing import Any

from tb_firstloss.capture.keras import library
from tb_firstloss.capture.keras.first_execution import FirstExecution
from tb_firstloss.capture.keras.stand_in import when_made
from tb_firstloss.capture.recorder import Recorder


def is_train_on_batch(step_fn: Any) -> bool:
    """Returns whether a step is the bound ``train_on_batch`` of a Keras 3 or tf_keras model."""
    owner = getattr(step_fn, "__self__", None)
    return (
        getattr(step_fn, "__name__", None) == "train_on_batch"
        and hasattr(owner, "make_train_function")
        and library.library_of(owner) is not None
    )


def capture_train_on_batch(
    recorder: Recorder, train_on_batch: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Calls a model's ``train_on_batch`` and records the batch; returns what the method returns."""
    model = train_on_batch.__self__  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:

        def made(*, is_new: bool) -> None:
            execution = FirstExecution.in_place(model, "model.train_on_batch", is_new=is_new)
            execution.add(recorder)
            stack.callback(execution.give_back)

        stack.enter_context(when_made(model, made))
        return train_on_batch(*args, **kwargs)
