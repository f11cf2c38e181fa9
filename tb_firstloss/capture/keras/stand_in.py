"""Who holds the place of a Keras model's train function, and how the place is given back."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from tb_firstloss.capture.keras.hooks import temporary_attribute
from tb_firstloss.capture.recorder import Recorder

logger = logging.getLogger(__name__)


class StandIn:
    """Stands in for a model's train function, and passes on what is asked of that function.

    ``model.train_function`` has one holder at a time; the README beside this file shows the order.
    A holder that ends without having trained gives the place back. One that another function has
    taken the place of, and may go on calling, passes every call on.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._function = model.train_function

    def __getattr__(self, name: str) -> Any:
        # Callbacks look for the parts of a tf.function; Keras's TensorBoard, for the graph.
        if name == "_function" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._function, name)

    def take(self) -> None:
        """Takes the place."""
        self._model.train_function = self

    def give_back(self) -> None:
        """Puts back the function that it stands for, if it still holds the place."""
        self.leave_to(self._function)

    def leave_to(self, function: Any) -> None:
        """Leaves the place to another function, or passes calls on to it from where it is."""
        self._function = function
        if self._model.train_function is self:
            self._model.train_function = function


class LaterExecutions(StandIn):
    """Counts the steps until the warm one has been profiled.

    A call counts as one step, even if it takes several steps per execution.
    """

    def __init__(self, model: Any, recorder: Recorder) -> None:
        super().__init__(model)
        self._recorder = recorder
        recorder.end_first_call()
        self.take()

    def __call__(self, iterator: Any) -> Any:
        """Returns what the train function returns, and counts the call unless it raises."""
        with self._recorder.later_step():
            logs = self._function(iterator)
        if not self._recorder.awaits_warm_step:
            self.give_back()
        return logs

    def give_back(self) -> None:
        """Gives the place back, and says so if the warm step has not come."""
        if self._recorder.awaits_warm_step:
            logger.warning("%s: no warm profile: training ended before", self._recorder.run_dir)
        super().give_back()


@contextlib.contextmanager
def when_made(model: Any, made: Callable[..., None]) -> Iterator[None]:
    """Calls ``made(is_new=…)`` once a model has next made its train function, or has kept it.

    The model is built by then, which decides whether it can be jit-compiled.
    """
    make = getattr(model, "make_train_function", None)
    with contextlib.ExitStack() as hook:
        if make is not None:

            @functools.wraps(make)
            def make_train_function(*args: Any, **kwargs: Any) -> Any:
                hook.close()
                is_new = model.train_function is None
                function = make(*args, **kwargs)
                if function is not None:  # tf_keras puts in the place what is returned
                    model.train_function = function
                made(is_new=is_new)
                return model.train_function

            own = temporary_attribute(model, "make_train_function", make_train_function)
            hook.enter_context(own)
        yield


@contextlib.contextmanager
def places_kept(model: Any) -> Iterator[None]:
    """Restores both places after the block; Keras 3 has no ``train_tf_function``."""
    with contextlib.ExitStack() as stack:
        for name in ("train_tf_function", "train_function"):
            if hasattr(model, name):
                stack.callback(setattr, model, name, getattr(model, name))
        yield
