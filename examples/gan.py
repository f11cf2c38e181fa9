"""Trains a GAN in a custom loop and records both losses of its first step.

python gan.py; tb-firstloss check runs/gan
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

from tb_firstloss import FirstLoss

keras.utils.set_random_seed(0)
images, _ = load_digits(return_X_y=True)
batches = tf.data.Dataset.from_tensor_slices((images / 8 - 1).astype("float32"))
batches = batches.shuffle(2000, seed=0).batch(64, drop_remainder=True)

dense = keras.layers.Dense
generator = keras.Sequential([dense(64, activation="relu"), dense(64, activation="tanh")])
# Small initial logits: the discriminator begins undecided.
discriminator = keras.Sequential(
    [dense(64, activation="relu"), dense(1, kernel_initializer=keras.initializers.RandomNormal())]
)
generator_optimizer, discriminator_optimizer = (keras.optimizers.Adam(2e-4, 0.5) for _ in "gd")
cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)

# An undecided discriminator gives each image ln 2, of real and generated ones.
first = FirstLoss("runs/gan", expect={"d_loss": "2 * log(2)", "g_loss": "log(2)"})


@first.wrap  # a mapping of scalars: these are the losses, by name
@tf.function
def train_step(real):
    noise = tf.random.normal([tf.shape(real)[0], 16])
    with tf.GradientTape(persistent=True) as tape:
        fake = generator(noise, training=True)
        on_real, on_fake = discriminator(real), discriminator(fake)
        d_loss = cross_entropy(tf.ones_like(on_real), on_real)
        d_loss += cross_entropy(tf.zeros_like(on_fake), on_fake)
        g_loss = cross_entropy(tf.ones_like(on_fake), on_fake)
    for loss, network, optimizer in (
        (d_loss, discriminator, discriminator_optimizer),
        (g_loss, generator, generator_optimizer),
    ):
        variables = network.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    return {"d_loss": d_loss, "g_loss": g_loss}


for real in batches:
    train_step(real)

for name, loss in first.first_batch.losses.items():
    print(f"{name} {loss:.4f}")
