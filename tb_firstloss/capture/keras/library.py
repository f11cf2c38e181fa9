"""What Keras 3 and tf_keras keep in private places, and everything that differs between the two.

No other file of the package names a private attribute or module of Keras; a test holds that. Where
a version (Keras 3.0 to 3.15, tf_keras 2.16 to 2.21) lacks one, these functions return an empty
answer and raise nothing; callers then record without it and say what is missing.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.keras.hooks import temporary_attribute

LIBRARIES = ("keras", "tf_keras")

_LOSS_MODULES = {"keras": "keras.src.losses.loss", "tf_keras": "tf_keras.src.losses"}
_TRAINER_MODULES = {
    "keras": "keras.src.backend.tensorflow.trainer",
    "tf_keras": "tf_keras.src.engine.training",
}
_SCALING = {
    "keras": ("optimizers", "Optimizer", "scale_loss"),
    "tf_keras": ("mixed_precision", "LossScaleOptimizer", "get_scaled_loss"),
}
_TF_KERAS_REDUCTIONS = "tf_keras.src.utils.losses_utils"
_REDUCTIONS: dict[str, dict[tuple[str, str], dict[str, str]]] = {
    # Module and function, and the names of its arguments by their role.
    "keras": {
        ("keras.src.losses.loss", "reduce_weighted_values"): {
            name: name for name in ("values", "sample_weight", "mask", "reduction")
        },
    },
    "tf_keras": {
        (_TF_KERAS_REDUCTIONS, "apply_valid_mask"): {"sample_weight": "sw", "mask": "mask"},
        (_TF_KERAS_REDUCTIONS, "compute_weighted_loss"): {
            "values": "losses",
            "reduction": "reduction",
        },
    },
}


def _idle(_callback: Any, *_args: Any, **_kwargs: Any) -> None:
    """Stands for a hook that has nothing to do."""


# Keras 3 and tf_keras skip hooks that carry this mark: no step waits for its logs, and Keras 3 may
# go on calling other callbacks' hooks from its own thread.
_idle._is_default = True  # type: ignore[attr-defined]  # noqa: SLF001


class IdleCallback:
    """A callback of Keras 3 and of tf_keras whose hooks do nothing and cost nothing per step.

    Both libraries take any object with these methods, so it needs neither's Callback, and no import
    of either.
    """

    _supports_tf_logs = True  # tf_keras: it needs no logs as NumPy
    _chief_worker_only = None  # tf_keras: every worker calls it
    async_safe = True  # Keras 3

    on_batch_begin = on_batch_end = _idle
    on_train_batch_begin = on_train_batch_end = _idle
    on_test_batch_begin = on_test_batch_end = on_test_begin = on_test_end = _idle
    on_predict_batch_begin = on_predict_batch_end = on_predict_begin = on_predict_end = _idle
    on_train_begin = on_epoch_end = _idle
    # tf_keras calls no batch hook of a callback that answers with a false value here.
    _implements_train_batch_hooks = _implements_test_batch_hooks = _idle
    _implements_predict_batch_hooks = _idle


@dataclasses.dataclass(frozen=True)
class CompiledLoss:
    """One entry of what a model was compiled with: a Loss, its output's name, its weight."""

    loss: Any
    name: str
    weight: Any


def library_of(model: Any) -> str | None:
    """Returns the library that defines a model, "keras" or "tf_keras"; None for neither."""
    packages = (base.__module__.partition(".")[0] for base in type(model).__mro__)
    return next((package for package in packages if package in LIBRARIES), None)


def is_librarys(defined: Any) -> bool:
    """Returns whether Keras defines a class, function or method, and not the user."""
    return str(defined.__module__).partition(".")[0] in LIBRARIES


def is_own_train_function(function: Any) -> bool:
    """Returns whether Keras made a train function, and not the user, who may have wrapped one."""
    plain = getattr(function, "python_function", function)
    while (module := _module_of(plain)) == "tensorflow" and hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__  # AutoGraph's do_not_convert
    return module in LIBRARIES


def _module_of(function: Any) -> str:
    # functools.wraps copies __module__, but not the globals.
    return str(getattr(function, "__globals__", {}).get("__name__")).partition(".")[0]


def why_not_capturable(model: Any, *, is_known: bool) -> str | None:
    """Returns why a model's training step cannot be captured, or None if it can.

    ``is_known``: whether its train function is Keras's own, or one of this package.
    """
    if library_of(model) is None:
        return "the model is neither a Keras 3 nor a tf_keras model"
    if not is_librarys(model.make_train_function):
        return (
            "the model has a custom make_train_function, and only it knows its steps; wrap the "
            "step in it with FirstLoss.wrap, or override train_step instead"
        )
    if not is_known:
        return (
            "model.train_function is not Keras's own, so its steps cannot be seen; it is left "
            "alone. Override train_step instead, or wrap model.train_function in a callback's "
            "on_train_begin"
        )
    if getattr(model, "_cluster_coordinator", None) is not None:
        return (
            f"{type(model.distribute_strategy).__name__} runs its steps elsewhere and later; write "
            "the loop by hand and use FirstLoss.wrap"
        )
    if getattr(model, "autotune_steps_per_execution", False):
        return "autotune_steps_per_execution changes the steps per execution while it runs"
    return None


def is_distributed(model: Any) -> bool:
    """Returns whether a model is trained under a strategy, even of a single replica."""
    with model.distribute_strategy.scope():
        return bool(tf.distribute.has_strategy())


def compiled_losses(model: Any) -> list[CompiledLoss]:
    """Returns the model's compiled losses, in the order in which ``compute_loss`` calls them."""
    container = getattr(model, "_compile_loss", None) or getattr(model, "compiled_loss", None)
    flat = getattr(container, "_flat_losses", None)  # Keras 3.7 and later
    if flat is not None:
        return [CompiledLoss(loss, name, weight) for _, loss, weight, name in flat]
    for attributes in ("flat_losses", "flat_loss_weights"), ("_losses", "_loss_weights"):
        losses, weights = (getattr(container, name, None) for name in attributes)
        if isinstance(losses, list) and isinstance(weights, list):
            names = _output_names(model, container, losses)
            entries = zip(losses, names, weights, strict=False)
            return [CompiledLoss(*entry) for entry in entries if entry[0] is not None]
    return []


def _output_names(model: Any, container: Any, losses: list[Any]) -> list[str]:
    for owner in container, model:
        names = getattr(owner, "_output_names", None) or getattr(owner, "output_names", None)
        if names and len(names) == len(losses):
            return [str(name) for name in names]
    return [str(getattr(loss, "name", "loss")) for loss in losses]


def loss_options(loss: Any) -> Mapping[str, Any]:
    """Returns the arguments that a Loss adds when it calls its function, such as ``axis``."""
    return getattr(loss, "_fn_kwargs", None) or {}


def loss_class(model: Any) -> Any:
    """Returns the Loss class of a model's library; None where it has moved."""
    return getattr(_module(_LOSS_MODULES, model), "Loss", None)


def scaling_methods(model: Any) -> list[tuple[type, str]]:
    """Returns every class that scales a loss for mixed precision, and its method's name.

    The user's own optimizers are among them, wherever a model keeps its instances.
    """
    library = library_of(model) or ""
    module, name, method = _SCALING.get(library, ("", "", ""))
    root = getattr(getattr(sys.modules.get(library), module, None), name, object)
    waiting: list[Any] = [each for each in root.__mro__ if method in vars(each)]
    found: dict[Any, bool] = {}
    while waiting:
        each = waiting.pop()
        found[each] = method in vars(each)
        waiting += [subclass for subclass in each.__subclasses__() if subclass not in found]
    return [(each, method) for each, scales in found.items() if scales]


def metrics_of(model: Any) -> list[Any]:
    """Returns the metrics that a model resets between epochs; [] where it cannot list them."""
    try:
        return [m for m in model.metrics if hasattr(m, "name") and hasattr(m, "__dict__")]
    except Exception:  # noqa: BLE001 - a property of the user's that expects a built model
        return []


def reductions(model: Any) -> list[tuple[Any, str, Mapping[str, str]]]:
    """Returns the functions that a Loss of the model's library calls with its unreduced values.

    Each as module (None in a version without it), name, and the names of its arguments by role.
    """
    known = _REDUCTIONS.get(library_of(model) or "", {})
    return [(sys.modules.get(module), name, given) for (module, name), given in known.items()]


def replica_reduction(model: Any) -> tuple[Any, str]:
    """Returns the module and name of what the train function combines its replicas' logs with."""
    return _module(_TRAINER_MODULES, model), "reduce_per_replica"


def _module(names: Mapping[str, str], model: Any) -> Any:
    return sys.modules.get(names.get(library_of(model) or "", ""))


def iterations_of(model: Any) -> int:
    """Returns how many batches the optimizer has been given; 0 where that is unknown."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    # The public property divides under gradient accumulation; tf_keras's legacy optimizers create
    # the counter when it is first read, which is training's to do; Keras 3.0 has no property.
    counter = getattr(optimizer, "_iterations", None)
    if counter is None:
        counter = getattr(optimizer, "__dict__", {}).get("iterations")
    return 0 if counter is None else int(counter.numpy())


def steps_per_execution(model: Any) -> int:
    """Returns how many steps one call of the train function takes."""
    variable = getattr(model, "_steps_per_execution", None)  # tf_keras: a variable, None for 1
    if isinstance(variable, tf.Variable):
        return int(variable.numpy())
    return int(getattr(model, "steps_per_execution", None) or 1)


@contextlib.contextmanager
def steps_set_to(model: Any, steps: int) -> Iterator[None]:
    """Makes an execution of a tf_keras model take that many steps; Keras 3 compiles them in."""
    variable = getattr(model, "_steps_per_execution", None)
    with contextlib.ExitStack() as stack:
        if isinstance(variable, tf.Variable):
            stack.callback(variable.assign, variable.numpy())
            variable.assign(steps)
        yield


def without_jit(model: Any) -> contextlib.AbstractContextManager[None]:
    """Makes a Keras 3 model build train functions that XLA does not compile as a whole."""
    return temporary_attribute(model, "_jit_compile", False)


def binds_train_step(model: Any) -> bool:
    """Returns whether a train function keeps the train_step it was made with (since Keras 3.7).

    Other versions look the model's up whenever they are traced.
    """
    return hasattr(model, "_make_function")


def tf_function_of(train_function: Any) -> Any:
    """Returns the tf.function in a train function: itself, or since Keras 3.7 one that it calls."""
    cells = getattr(train_function, "__closure__", None) or ()
    for candidate in (train_function, *(cell.cell_contents for cell in cells)):
        if hasattr(candidate, "get_concrete_function"):
            return candidate
    return None


def has_been_traced(train_function: Any) -> bool:
    """Returns whether a train function has been traced, as far as that can be seen."""
    function = tf_function_of(train_function)
    return function is not None and function.experimental_get_tracing_count() > 0
