"""model.fit with the callback: training bit for bit as without it, and the loss of its first batch."""

import importlib
import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tb_firstloss import errors
from tb_firstloss.capture.fit import FirstLossCallback
from tb_firstloss.reading.recordings import read_first_loss
from tests import fit_cases
from tests.fit_cases import CASES


def build(case):
    """Returns the case's job, built from the same seeds every time."""
    library = importlib.import_module(case.library)
    library.backend.clear_session()
    library.utils.set_random_seed(7)
    return case.make(library)


def fit(job, callbacks, epochs=2):
    history = job.model.fit(
        **{"batch_size": fit_cases.BATCH_SIZE, **job.data}
        if isinstance(job.data["x"], np.ndarray)
        else job.data,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return history.history


def state_after(case, callbacks=()):
    """Trains twice, the second time without callbacks, and returns everything that training has."""
    job = build(case)
    histories = [fit(job, list(callbacks)), fit(job, [], epochs=1)]
    variables = job.model.optimizer.variables
    variables = variables() if callable(variables) else variables
    return {
        "histories": repr(histories),  # repr tells every bit of a float
        "weights": [w.tobytes() for w in job.model.get_weights()],
        "optimizer": [np.asarray(v).tobytes() for v in variables],
        "random streams": (random.random(), np.random.rand(), float(tf.random.uniform([]))),
        "batches": list(job.consumed),
    }, job


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_is_the_same_and_the_first_loss_is_the_formulas(case, tmp_path):
    plain, _ = state_after(case)
    first = FirstLossCallback(tmp_path, graph=False, profile=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        captured, _ = state_after(case, [first])

    assert captured == plain
    ours = [str(w.message) for w in caught if issubclass(w.category, errors.FirstLossWarning)]
    assert len(ours) == (case.missing is not None)
    assert case.missing is None or case.missing in ours[0]
    if case.outputs < 0:
        assert first.first_batch is None
        return
    assert len(first.first_batch.outputs) == case.outputs
    assert (first.first_batch.loss is not None) == case.has_loss
    assert read_first_loss(tmp_path).digest == first.first_batch.digest
    expect = build(case).expect
    if expect is not None and case.has_loss:
        per_example, total = expect()
        outputs = first.first_batch.outputs.values()
        for output, values in zip(outputs, per_example, strict=True):
            np.testing.assert_allclose(output.per_example, values, rtol=2e-5)
        np.testing.assert_allclose(first.first_batch.loss, total, rtol=2e-5)
