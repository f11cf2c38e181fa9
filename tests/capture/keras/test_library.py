"""What Keras keeps in private places: this version has it, and another is recorded without."""

import keras
import pytest
import tf_keras

from tb_firstloss import FirstLossCallback
from tb_firstloss.capture.keras import library
from tb_firstloss.errors import CaptureError
from tests.helpers.fit_cases import regression

LIBRARIES = pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])


@LIBRARIES
def test_this_version_has_every_function_that_is_hooked(k):
    model = regression(k).model
    places = [(module, name) for module, name, _ in library.reductions(model)]
    places += [library.replica_reduction(model), (library.loss_class(model), "__call__")]
    assert len(places) >= 3
    assert all(callable(getattr(owner, name, None)) for owner, name in places)


@LIBRARIES
def test_a_version_without_them_is_recorded_without_and_says_so(k, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "_LOSS_MODULES", {})
    job = regression(k)
    _, total = job.expect()
    first = FirstLossCallback(tmp_path, graph=False, profile=False, on_error="raise")
    with pytest.raises(CaptureError, match="this version of Keras has no __call__"):
        job.model.fit(**job.data, batch_size=8, shuffle=False, verbose=0, callbacks=[first])
    assert not first.first_batch.outputs
    assert first.first_batch.loss == pytest.approx(total, rel=2e-5)


def test_neither_library_knows_another_object():
    other = object()
    assert library.library_of(other) is None
    assert library.reductions(other) == []
    assert library.loss_class(other) is None
    assert library.compiled_losses(other) == []
    assert library.iterations_of(other) == 0
    assert library.steps_per_execution(other) == 1
    assert library.loss_options(other) == {}
