import keras
import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import peek


def numbers(count=10, **shuffle):
    data = tf.data.Dataset.range(count)
    return (data.shuffle(count, **shuffle) if shuffle else data).batch(2)


def as_lists(batches):
    return [batch.numpy().tolist() for batch in batches]


@pytest.mark.parametrize("epochs", [1, 3])
def test_under_shuffle_nothing_is_read_twice_and_nothing_lost(epochs):
    plain = numbers(seed=7, reshuffle_each_iteration=True)
    first, batches = peek(numbers(seed=7, reshuffle_each_iteration=True))
    seen = [as_lists(batches) for _ in range(epochs)]
    assert seen == [as_lists(plain) for _ in range(epochs)]
    assert first.numpy().tolist() == seen[0][0]
    assert all(sorted(np.concatenate(epoch)) == list(range(10)) for epoch in seen)


def test_take_and_skip_return_another_batch_under_shuffle():
    """The mistake that peek prevents; if TensorFlow ever changes this, the README must follow."""
    data = numbers(count=1000, seed=7, reshuffle_each_iteration=True)
    (first,) = as_lists(data.take(1))
    assert sorted(np.concatenate([first, *as_lists(data.skip(1))])) != list(range(1000))


def test_a_generator_is_read_once():
    reads = []

    def source():
        for i in range(4):
            reads.append(i)
            yield i

    first, batches = peek(source())
    assert (first, reads) == (0, [0])
    assert list(batches) == [0, 1, 2, 3]
    assert reads == [0, 1, 2, 3]
    assert list(batches) == []  # used up, as the generator itself is


def test_an_iterator_in_use_continues_where_it_was():
    iterator = iter(numbers())
    next(iterator)
    first, batches = peek(iterator)
    assert first.numpy().tolist() == [2, 3]
    assert as_lists(batches) == [[2, 3], [4, 5], [6, 7], [8, 9]]


def test_the_source_is_read_no_further_than_its_first_batch():
    iterator = iter(range(5))
    peek(iterator)
    assert next(iterator) == 1


def test_a_fresh_epoch_follows_one_that_was_broken_off():
    _, batches = peek([1, 2, 3])
    for _ in batches:
        break
    assert list(batches) == [1, 2, 3]


def test_a_distributed_dataset_gives_its_per_replica_batches():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    distributed = strategy.experimental_distribute_dataset(numbers(8))
    plain = [strategy.experimental_local_results(b) for b in distributed]
    first, batches = peek(distributed)
    for _ in range(2):
        peeked = [strategy.experimental_local_results(b) for b in batches]
        assert [as_lists(p) for p in peeked] == [as_lists(p) for p in plain]
    assert as_lists(strategy.experimental_local_results(first)) == as_lists(plain[0])


def test_length_and_element_spec_are_the_sources():
    data = numbers()
    _, batches = peek(data)
    assert len(batches) == 5
    assert batches.element_spec == data.element_spec
    with pytest.raises(TypeError):
        len(peek(iter([1]))[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: numbers().filter(lambda _: False), r"element_spec TensorSpec\(shape=\(None,\)"),
        (list, "list has no batch"),
        (lambda: iter(()), "used up"),
    ],
    ids=["dataset", "list", "iterator"],
)
def test_a_source_without_a_batch_is_a_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        peek(make())


def test_a_source_that_is_not_iterable_is_a_type_error():
    with pytest.raises(TypeError):
        peek(3)


def test_fit_on_the_generator_trains_on_every_epoch_as_python_iterates_it():
    # Not compared with fit(dataset): there, Keras starts one iterator more than it reads, so under
    # shuffle its second epoch is the dataset's third.
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)

    def dataset():
        keras.utils.set_random_seed(0)
        data = tf.data.Dataset.from_tensor_slices((x, x[:, :1]))
        return data.shuffle(12, seed=3).batch(4)

    def fit(batches, **options):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        history = model.fit(batches, epochs=3, verbose=0, **options).history
        return history, [w.tobytes() for w in model.get_weights()]

    data = dataset()
    plain = fit((batch for _ in range(3) for batch in data), steps_per_epoch=3)
    first, batches = peek(dataset())
    generator = batches.as_generator(epochs=3)
    assert fit(generator, steps_per_epoch=len(batches)) == plain
    assert first[0].shape == (4, 3)
