"""Trains a program, and tells what its first step differentiated by itself."""

import dataclasses
import importlib
from typing import Any

import numpy as np

from tests.programs.program import Program


@dataclasses.dataclass
class Trained:
    """What a training has left, as bits.

    Attributes:
        state: Weights, optimizers' variables and history, each comparable with ==.
        first_logs: What the step returned for the first batch, float32 or float.
    """

    state: dict[str, Any]
    first_logs: dict[str, Any]

    def exact(self, program: Program) -> dict[str, np.float32]:
        """Returns the differentiated losses, of an exposing training."""
        logs = self.first_logs

        def read(name):
            if name in program.by_hand:
                return program.by_hand[name](logs)
            return logs.get(f"exact/{name}", logs.get(name))

        return {name: np.float32(read(name)) for name in program.losses}


def make(program: Program, library: str, *, expose: bool = False, **options: Any) -> Any:
    """Returns a program's model and dataset, made from the same seeds every time."""
    k = importlib.import_module(library)
    k.utils.set_random_seed(7)
    model, dataset = program.make(k, **options)
    if expose and hasattr(model, "expose"):
        model.expose = True
    return model, dataset


def train(
    program: Program,
    library: str,
    *,
    expose: bool = False,
    callbacks: Any = (),
    **options: Any,
) -> Trained:
    """Trains a new copy of a program, for one batch if it exposes; the options are compile's."""
    k = importlib.import_module(library)
    model, dataset = make(program, library, expose=expose, **options)
    if expose:
        dataset = dataset.take(1)
    first_logs: dict[str, Any] = {}

    def on_batch_end(batch, logs):
        if not first_logs:
            first_logs.update(logs)

    watching = k.callbacks.LambdaCallback(on_train_batch_end=on_batch_end)
    epochs = 1 if expose else 2
    history = model.fit(dataset, epochs=epochs, verbose=0, callbacks=[*callbacks, watching])
    state = {
        "history": repr(history.history),  # repr tells every bit of a float
        "weights": [weight.tobytes() for weight in model.get_weights()],
        "optimizers": [np.asarray(v).tobytes() for v in optimizer_variables(model)],
    }
    return Trained(state, first_logs)


def optimizer_variables(model: Any) -> list[Any]:
    """Returns the variables of all of a model's optimizers."""
    values = list(vars(model).values())
    for value in list(values):
        values += value if isinstance(value, (list, tuple)) else []
    found = {id(v): v for v in values if hasattr(v, "apply_gradients")}
    variables = []
    for optimizer in found.values():
        its = optimizer.variables
        variables += its() if callable(its) else its
    return variables
