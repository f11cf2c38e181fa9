"""The loss of the first training batch, exactly as training computed it.

    import tb_firstloss

    first = tb_firstloss.FirstLoss("runs/mine")
    train_step = first.wrap(train_step)     # the first call is captured, later ones pass through
    ...
    tb_firstloss.read_first_loss("runs/mine").per_example

Names are loaded when they are first used, so that importing the package costs nothing and reading
never imports TensorFlow.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Comparison": "comparison",
    "Damage": "reading.damage",
    "FirstBatch": "first_batch",
    "FirstLoss": "capture.loop",
    "FirstLossCallback": "capture.fit",
    "OutputLoss": "first_batch",
    "Scalars": "reading.columns",
    "TensorDatum": "reading.tensor_datum",
    "Verdict": "checks",
    "check": "checks",
    "compare": "comparison",
    "follow": "reading.follow",
    "iter_events": "reading.logdir",
    "iter_tensors": "reading.logdir",
    "peek": "capture.peek",
    "probe": "capture.probe",
    "read_first_loss": "reading.recordings",
    "read_first_losses": "reading.recordings",
    "read_hparams": "reading.hparams",
    "read_scalars": "reading.scalars",
    "verify": "reading.logdir",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
