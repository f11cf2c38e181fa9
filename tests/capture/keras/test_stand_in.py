import keras
import pytest
import tf_keras

from tb_firstloss.capture.keras.stand_in import StandIn, places_kept
from tests.helpers.fit_cases import regression


@pytest.fixture(params=[keras, tf_keras], ids=["keras", "tf_keras"])
def model(request):
    model = regression(request.param).model
    model.make_train_function()
    return model


def test_it_takes_the_place_passes_on_what_is_asked_and_gives_the_place_back(model):
    function, attributes = model.train_function, vars(model).keys()
    stand_in = StandIn(model)
    assert model.train_function is function
    stand_in.take()
    assert model.train_function is stand_in
    function.mark = "of the function"
    assert stand_in.mark == "of the function"
    assert not hasattr(stand_in, "nothing_like_it")
    stand_in.give_back()
    assert model.train_function is function
    assert vars(model).keys() == attributes


def test_it_leaves_alone_who_has_taken_the_place_since(model):
    first = StandIn(model)
    first.take()
    second = StandIn(model)
    second.take()
    first.give_back()
    assert model.train_function is second
    second.give_back()
    assert model.train_function is first


def test_what_is_made_in_between_does_not_stay(model):
    names = ("train_function", "train_tf_function")
    before = [getattr(model, name, None) for name in names]
    with places_kept(model):
        model.make_train_function(force=True)
        assert model.train_function is not before[0]
    assert [getattr(model, name, None) for name in names] == before
    assert hasattr(model, "train_tf_function") == (before[1] is not None)
