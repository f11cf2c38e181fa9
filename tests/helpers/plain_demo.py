"""The demo's training, handwritten without this package: python plain_demo.py OUT.npz."""

import sys

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)[:-297]
labels = labels.astype("int32")[:-297]
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
)
optimizer = keras.optimizers.Adam(3e-3)
loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        per_example = loss_fn(y, model(x, training=True))
        loss = tf.reduce_mean(per_example)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return per_example, loss


batches = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images), seed=0)
first = None
for x, y in batches.batch(32):
    per_example, loss = train_step(x, y)
    if first is None:
        first = {"per_example": per_example.numpy(), "loss": loss.numpy()}

assert "tb_firstloss" not in sys.modules
weights = {f"weight_{i}": value for i, value in enumerate(model.get_weights())}
np.savez(sys.argv[1], **first, **weights)
