"""Trains in a custom loop and records its first step, and the fourth one's profile.

python custom_loop.py; tb-firstloss profile runs/loop/first_batch
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

from tb_firstloss import FirstLoss

keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)
batches = tf.data.Dataset.from_tensor_slices(((images / 16).astype("float32"), labels))
batches = batches.shuffle(2000, seed=0).batch(32).prefetch(2)

model = keras.Sequential([keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)])
optimizer = keras.optimizers.Adam()
loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
first = FirstLoss("runs/loop", expect="log(10)", warm_step=3)


@first.wrap(loss="per_example", total="loss")
@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        per_example = loss_fn(y, model(x, training=True))
        loss = tf.reduce_mean(per_example)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return {"per_example": per_example, "loss": loss}


for x, y in batches:
    train_step(x, y)

print(first.first_batch)
