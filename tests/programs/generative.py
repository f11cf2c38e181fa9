"""Models that make data: autoencoders and diffusion."""

import tensorflow as tf

from tests.programs.program import (
    LIBRARIES,
    Exposing,
    batches,
    descend,
    latent,
    network,
    numbers,
    program,
)


def sample(optimizer, mean, log_variance):
    noise = latent(optimizer, tf.shape(mean)[0], 2)
    return mean + tf.exp(0.5 * log_variance) * noise


def divergence(mean, log_variance):
    return -0.5 * (1 + log_variance - tf.square(mean) - tf.exp(log_variance))


# Every term has a metric; only the total is differentiated.
@program("total_loss", outputs={}, jit=("keras",))
def vae(k, **options):
    class VAE(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = network(k, 4, 8, 4), network(k, 2, 8, 4, last="sigmoid")
            self.total_tracker = k.metrics.Mean(name="total_loss")
            self.reconstruction_tracker = k.metrics.Mean(name="reconstruction_loss")
            self.kl_tracker = k.metrics.Mean(name="kl_loss")

        @property
        def metrics(self):
            return [self.total_tracker, self.reconstruction_tracker, self.kl_tracker]

        def train_step(self, data):
            with tf.GradientTape() as tape:
                mean, log_variance = tf.split(self.encoder(data), 2, axis=-1)
                decoded = self.decoder(sample(self.optimizer, mean, log_variance))
                reconstruction = tf.reduce_mean(tf.reduce_sum((data - decoded) ** 2, axis=-1))
                kl = tf.reduce_mean(tf.reduce_sum(divergence(mean, log_variance), axis=1))
                total = reconstruction + kl
            descend(self.optimizer, tape, total, self.trainable_weights)
            self.total_tracker.update_state(total)
            self.reconstruction_tracker.update_state(reconstruction)
            self.kl_tracker.update_state(kl)
            logs = {
                "loss": self.total_tracker.result(),
                "reconstruction_loss": self.reconstruction_tracker.result(),
                "kl_loss": self.kl_tracker.result(),
            }
            return self.logs(logs, total_loss=total)

    model = VAE()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4))


# Nothing names the loss: it is the only one.
@program("loss", outputs={"loss": (8,)}, jit=("tf_keras",))
def beta_vae(k, **options):
    class BetaVAE(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = network(k, 4, 8, 4), network(k, 2, 8, 4)
            self.mse, self.seen = k.losses.MeanSquaredError(), k.metrics.Mean(name="mse")

        def train_step(self, data):
            x, target = data
            with tf.GradientTape() as tape:
                mean, log_variance = tf.split(self.encoder(x), 2, axis=-1)
                decoded = self.decoder(sample(self.optimizer, mean, log_variance))
                reconstruction = self.mse(target, decoded)
                total = reconstruction + 4.0 * tf.reduce_mean(divergence(mean, log_variance))
            descend(self.optimizer, tape, total, self.trainable_weights)
            self.seen.update_state(reconstruction)
            return self.logs({"mse": self.seen.result()}, loss=total)

    model = BetaVAE()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), numbers(4))


# The quantizer adds its loss itself; the step adds the model's losses to its own.
@program("loss", outputs={}, jit=("keras",))
def vq_vae(k, **options):
    class Quantizer(k.layers.Layer):
        def build(self, shape):
            self.codes = self.add_weight(
                name="codes", shape=(shape[-1], 6), initializer="random_uniform", trainable=True
            )

        def call(self, x):
            codes = tf.convert_to_tensor(self.codes)
            distances = tf.reduce_sum(x**2, 1, keepdims=True) + tf.reduce_sum(codes**2, 0)
            nearest = tf.argmin(distances - 2 * tf.matmul(x, codes), axis=1)
            quantized = tf.matmul(tf.one_hot(nearest, 6), codes, transpose_b=True)
            commitment = tf.reduce_mean((tf.stop_gradient(quantized) - x) ** 2)
            codebook = tf.reduce_mean((quantized - tf.stop_gradient(x)) ** 2)
            self.add_loss(0.25 * commitment + codebook)
            return x + tf.stop_gradient(quantized - x)

    class Trainer(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            x = k.layers.Input((4,))
            quantized = Quantizer()(network(k, 4, 8, 3)(x))
            self.vqvae = k.Model(x, network(k, 3, 8, 4)(quantized))
            self.tracker = k.metrics.Mean(name="loss")
            self.vq_tracker = k.metrics.Mean(name="vqvae_loss")

        @property
        def metrics(self):
            return [self.tracker, self.vq_tracker]

        def train_step(self, x):
            with tf.GradientTape() as tape:
                decoded = self.vqvae(x)
                total = tf.reduce_mean((x - decoded) ** 2) / 0.9 + sum(self.vqvae.losses)
            descend(self.optimizer, tape, total, self.vqvae.trainable_variables)
            self.tracker.update_state(total)
            self.vq_tracker.update_state(sum(self.vqvae.losses))
            logs = {"loss": self.tracker.result(), "vqvae_loss": self.vq_tracker.result()}
            return self.logs(logs, loss=total)

    model = Trainer()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4))


# A vector is differentiated; the images' loss is only watched. An average of the weights follows.
@program("n_loss", outputs={"n_loss": (8,)}, vectors=("n_loss",), jit=LIBRARIES)
def diffusion(k, **options):
    class Diffusion(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.network, self.ema = network(k, 4 + 1, 8, 4), network(k, 4 + 1, 8, 4)
            self.ema.set_weights(self.network.get_weights())
            self.noise_tracker = k.metrics.Mean(name="n_loss")
            self.image_tracker = k.metrics.Mean(name="i_loss")

        @property
        def metrics(self):
            return [self.noise_tracker, self.image_tracker]

        def train_step(self, images):
            noises = latent(self.optimizer, tf.shape(images)[0], 4)
            angles = 1.4 * tf.sigmoid(latent(self.optimizer, tf.shape(images)[0], 1))
            noisy = tf.cos(angles) * images + tf.sin(angles) * noises
            with tf.GradientTape() as tape:
                found = self.network(tf.concat([noisy, tf.sin(angles)], -1), training=True)
                cleaned = (noisy - tf.sin(angles) * found) / tf.cos(angles)
                noise_loss = self.absolute(noises, found)
                image_loss = self.absolute(images, cleaned)
            descend(self.optimizer, tape, noise_loss, self.network.trainable_weights)
            self.noise_tracker.update_state(noise_loss)
            self.image_tracker.update_state(image_loss)
            for weight, average in zip(self.network.weights, self.ema.weights, strict=True):
                average.assign(0.9 * average + 0.1 * weight)
            results = {m.name: m.result() for m in self.metrics}
            return self.logs(results, n_loss=noise_loss)

    model = Diffusion()
    model.absolute = k.losses.mean_absolute_error
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4))


# The stock step: an activity regulariser and a compiled Loss.
@program("loss")
def sparse_autoencoder(k, **options):
    layers = [
        k.layers.Input((4,)),
        k.layers.Dense(8, activation="relu", activity_regularizer=k.regularizers.L1(0.01)),
        k.layers.Dense(4, kernel_regularizer=k.regularizers.L2(0.01)),
    ]
    model = k.Sequential(layers)
    model.compile(k.optimizers.Adam(0.01), "mse", **options)
    return model, batches(numbers(4), numbers(4))
