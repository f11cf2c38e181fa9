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
from typing import TYPE_CHECKING

from tb_firstloss import errors as errors

__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from tb_firstloss.capture.fit import FirstLossCallback as FirstLossCallback
    from tb_firstloss.capture.loop import FirstLoss as FirstLoss
    from tb_firstloss.capture.peek import peek as peek
    from tb_firstloss.capture.probe import probe as probe
    from tb_firstloss.checks import Verdict as Verdict
    from tb_firstloss.checks import check as check
    from tb_firstloss.comparison import Comparison as Comparison
    from tb_firstloss.comparison import compare as compare
    from tb_firstloss.first_batch import FirstBatch as FirstBatch
    from tb_firstloss.first_batch import OutputLoss as OutputLoss
    from tb_firstloss.reading.columns import Scalars as Scalars
    from tb_firstloss.reading.damage import Damage as Damage
    from tb_firstloss.reading.follow import follow as follow
    from tb_firstloss.reading.hparams import read_hparams as read_hparams
    from tb_firstloss.reading.logdir import iter_events as iter_events
    from tb_firstloss.reading.logdir import iter_tensors as iter_tensors
    from tb_firstloss.reading.logdir import verify as verify
    from tb_firstloss.reading.recordings import read_first_loss as read_first_loss
    from tb_firstloss.reading.recordings import read_first_losses as read_first_losses
    from tb_firstloss.reading.scalars import read_scalars as read_scalars
    from tb_firstloss.reading.tensor_datum import TensorDatum as TensorDatum

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

__all__ = ["__version__", "errors", *sorted(_HOMES)]  # pyright: ignore[reportUnsupportedDunderAll]

if not TYPE_CHECKING:  # to which a misspelt name would look like any other

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        except ModuleNotFoundError as error:
            if error.name != "tensorflow":
                raise
            raise errors.MissingDependencyError(
                f"{__name__}.{name} needs TensorFlow; pip install tensorflow"
            ) from None
        value = getattr(home, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
