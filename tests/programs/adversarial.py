"""Two networks against each other: each has a loss of its own."""

import tensorflow as tf

from tests.programs.program import (
    Exposing,
    batches,
    classes,
    descend,
    latent,
    network,
    numbers,
    program,
)


@program("d_loss", "g_loss", outputs={"d_loss": (16,), "g_loss": (8,)})
def dcgan(k, **options):
    class DCGAN(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.generator = k.Sequential(
                [
                    k.layers.Input((3,)),
                    k.layers.Dense(8),
                    k.layers.Reshape((2, 2, 2)),
                    k.layers.Conv2DTranspose(4, 4, strides=2, padding="same"),
                    k.layers.BatchNormalization(),
                    k.layers.LeakyReLU(),
                    k.layers.Conv2D(1, 3, padding="same", activation="tanh"),
                ]
            )
            self.discriminator = k.Sequential(
                [
                    k.layers.Input((4, 4, 1)),
                    k.layers.Conv2D(4, 3, strides=2, padding="same"),
                    k.layers.LeakyReLU(),
                    k.layers.Flatten(),
                    k.layers.Dropout(0.2),
                    k.layers.Dense(1, activation="sigmoid"),
                ]
            )
            self.d_loss_metric = k.metrics.Mean(name="d_loss")
            self.g_loss_metric = k.metrics.Mean(name="g_loss")

        def compile(self, d_optimizer, g_optimizer, loss_fn, **options):
            super().compile(**options)
            self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer
            self.loss_fn = loss_fn

        @property
        def metrics(self):
            return [self.d_loss_metric, self.g_loss_metric]

        def train_step(self, real):
            rows = tf.shape(real)[0]
            fake = self.generator(tf.random.normal((rows, 3)), training=True)
            labels = tf.concat([tf.zeros((rows, 1)), tf.ones((rows, 1))], 0)
            labels += 0.05 * tf.random.uniform(tf.shape(labels))
            with tf.GradientTape() as tape:
                predicted = self.discriminator(tf.concat([real, fake], 0), training=True)
                d_loss = self.loss_fn(labels, predicted)
            descend(self.d_optimizer, tape, d_loss, self.discriminator.trainable_variables)
            noise = tf.random.normal((rows, 3))
            with tf.GradientTape() as tape:
                predicted = self.discriminator(self.generator(noise, training=True))
                g_loss = self.loss_fn(tf.zeros((rows, 1)), predicted)
            descend(self.g_optimizer, tape, g_loss, self.generator.trainable_variables)
            self.d_loss_metric.update_state(d_loss)
            self.g_loss_metric.update_state(g_loss)
            results = {m.name: m.result() for m in self.metrics}
            return self.logs(results, d_loss=d_loss, g_loss=g_loss)

    model = DCGAN()
    model.compile(
        k.optimizers.Adam(0.01), k.optimizers.Adam(0.01), k.losses.BinaryCrossentropy(), **options
    )
    return model, batches(numbers(4, 4, 1))


# The logs' keys are not the metrics' names, so the metrics name the losses.
@program(
    "discriminator",
    "generator",
    outputs={"discriminator": (16,), "generator": (8,)},
    jit=("tf_keras",),
)
def conditional_gan(k, **options):
    class ConditionalGAN(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.generator = network(k, 3 + 2, 8, 4)
            self.discriminator = network(k, 4 + 2, 8, 1)
            self.gen_tracker = k.metrics.Mean(name="generator")
            self.disc_tracker = k.metrics.Mean(name="discriminator")
            self.g_optimizer, self.d_optimizer = k.optimizers.Adam(0.01), k.optimizers.Adam(0.01)
            self.loss_fn = k.losses.BinaryCrossentropy(from_logits=True)

        @property
        def metrics(self):
            return [self.gen_tracker, self.disc_tracker]

        def train_step(self, data):
            real, labels = data
            rows = tf.shape(real)[0]
            labels = tf.one_hot(labels, 2)
            noise = latent(self.g_optimizer, rows, 3)
            fake = self.generator(tf.concat([noise, labels], -1))
            both = tf.concat([tf.concat([fake, labels], -1), tf.concat([real, labels], -1)], 0)
            truth = tf.concat([tf.ones((rows, 1)), tf.zeros((rows, 1))], 0)
            with tf.GradientTape() as tape:
                d_loss = self.loss_fn(truth, self.discriminator(both))
            descend(self.d_optimizer, tape, d_loss, self.discriminator.trainable_weights)
            with tf.GradientTape() as tape:
                fake = self.generator(tf.concat([noise, labels], -1))
                predicted = self.discriminator(tf.concat([fake, labels], -1))
                g_loss = self.loss_fn(tf.zeros((rows, 1)), predicted)
            descend(self.g_optimizer, tape, g_loss, self.generator.trainable_weights)
            self.gen_tracker.update_state(g_loss)
            self.disc_tracker.update_state(d_loss)
            logs = {"g": self.gen_tracker.result(), "d": self.disc_tracker.result()}
            return self.logs(logs, discriminator=d_loss, generator=g_loss)

    model = ConditionalGAN()
    model.compile(**options)
    return model, batches(numbers(4), classes(2))


# The gradient for the interpolated images is a term, not a loss; the critic trains twice a step.
@program("loss_1", "d_loss", "g_loss", outputs={}, jit=("keras",))
def wgan_gp(k, **options):
    class WGAN(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.generator, self.critic = network(k, 3, 8, 4), network(k, 4, 8, 1)
            self.g_optimizer, self.d_optimizer = k.optimizers.Adam(0.01), k.optimizers.Adam(0.01)

        def penalty(self, real, fake):
            mixed = 0.3 * real + 0.7 * fake
            with tf.GradientTape() as tape:
                tape.watch(mixed)
                score = self.critic(mixed, training=True)
            gradients = tape.gradient(score, [mixed])[0]
            norm = tf.sqrt(tf.reduce_sum(tf.square(gradients), axis=-1))
            return tf.reduce_mean((norm - 1.0) ** 2)

        def train_step(self, real):
            noise = latent(self.g_optimizer, tf.shape(real)[0], 3)
            d_losses = []
            for _ in range(2):
                with tf.GradientTape() as tape:
                    fake = self.generator(noise, training=True)
                    cost = tf.reduce_mean(self.critic(fake)) - tf.reduce_mean(self.critic(real))
                    d_loss = cost + 10.0 * self.penalty(real, fake)
                descend(self.d_optimizer, tape, d_loss, self.critic.trainable_variables)
                d_losses.append(d_loss)
            with tf.GradientTape() as tape:
                g_loss = -tf.reduce_mean(self.critic(self.generator(noise, training=True)))
            descend(self.g_optimizer, tape, g_loss, self.generator.trainable_variables)
            logs = {"d_loss": d_loss, "g_loss": g_loss}
            return self.logs(logs, loss_1=d_losses[0], d_loss=d_loss, g_loss=g_loss)

    model = WGAN()
    model.compile(**options)
    return model, batches(numbers(4))
