"""One epoch on scikit-learn's digits, with the first loss captured."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from tb_firstloss.errors import MissingDependencyError

try:
    import keras
    import numpy as np
    import tensorflow as tf
    from sklearn.datasets import load_digits
except ImportError as error:
    raise MissingDependencyError(
        f"the demo needs {error.name}, which is not installed: pip install tensorflow scikit-learn"
    ) from error

from tb_firstloss.capture.fit import FirstLossCallback
from tb_firstloss.capture.loop import FirstLoss

BATCH_SIZE = 32
LEARNING_RATE = 3e-3

LOSSES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "cross-entropy": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None),
    "squared-error": lambda y, logits: keras.losses.mean_squared_error(tf.one_hot(y, 10), logits),
}
"""Functions of labels [batch] and logits [batch, 10] → losses per example [batch]."""

TEST_COUNT = 297


def start_devices() -> None:
    """Lets TensorFlow find, and log, its devices now and not at the first step."""
    tf.config.list_logical_devices()


def train(
    logdir: str | os.PathLike[str],
    *,
    data_seed: int = 0,
    weight_seed: int = 0,
    loss: str = "cross-entropy",
    with_fit: bool = False,
    track: Callable[[Iterable[Any], int], Iterable[Any]] = lambda batches, _: batches,
) -> tuple[str, float]:
    """Trains the demo network for one epoch and records its first batch under ``logdir``.

    ``track`` is called with a loop's batches and their number, and returns them, to show progress.
    Returns the recording's run directory, and the share of test images recognised, 0 to 1.
    """
    model = make_model(weight_seed)
    training, test = load_images()
    batches = make_batches(*training, data_seed)
    options: dict[str, Any] = {
        "expect": "log(10)" if loss == "cross-entropy" else None,
        "fingerprint": True,
        "metadata": {"loss_function": loss},
    }
    first: FirstLoss | FirstLossCallback
    if with_fit:
        first = FirstLossCallback(logdir, **options)
        _fit(model, batches, loss, first)
    else:
        first = FirstLoss(logdir, **options)
        train_step = first.wrap(make_train_step(model, loss), loss="per_example", total="loss")
        for x, y in track(batches, len(batches)):
            train_step(x, y)
    if first.run_dir is None:
        raise OSError(f"{first.logdir}: the recording could not be written; see the warning")
    images, labels = test
    predicted = np.argmax(model(images, training=False), axis=-1)
    return first.run_dir, float(np.mean(predicted == labels))


def _fit(
    model: keras.Model, batches: tf.data.Dataset, loss: str, callback: FirstLossCallback
) -> None:
    def loss_fn(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        # Keras casts labels to the dtype of the logits, and takes a function's mean.
        return LOSSES[loss](tf.cast(y, tf.int32), logits)

    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss_fn)
    model.fit(batches, verbose=0, callbacks=[callback])


def load_images() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns training and test images [count, 8, 8, 1] float32 in 0 to 1, and labels [count]."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    training, test = slice(-TEST_COUNT), slice(-TEST_COUNT, None)
    labels = labels.astype("int32")
    return (images[training], labels[training]), (images[test], labels[test])


def make_batches(images: np.ndarray, labels: np.ndarray, seed: int) -> tf.data.Dataset:
    """Returns shuffled batches of images [32, 8, 8, 1] and labels [32]."""
    # A shuffle combines its seed with the global one, which make_model has set.
    tf.random.set_seed(seed)
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    return data.shuffle(len(images), seed=seed).batch(BATCH_SIZE)


def make_model(seed: int) -> keras.Model:
    """Returns a small convolutional network: images [batch, 8, 8, 1] → logits [batch, 10]."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def make_train_step(
    model: keras.Model, loss: str = "cross-entropy"
) -> tf.types.experimental.PolymorphicFunction:
    """Returns a plain training step that returns the loss per example and the mean it descends."""
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    loss_fn = LOSSES[loss]

    def train_step(x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            per_example = loss_fn(y, model(x, training=True))
            loss = tf.reduce_mean(per_example)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return {"per_example": per_example, "loss": loss}

    return tf.function(train_step)
