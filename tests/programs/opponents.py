"""More games: scaled losses, reversed gradients, attacks on the inputs."""

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


# Keys with slashes, by no Loss of Keras.
@program("loss/discriminator", "loss/generator", outputs={}, jit=("tf_keras",))
def lsgan(k, **options):
    class LSGAN(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.generator, self.discriminator = network(k, 3, 8, 4), network(k, 4, 8, 1)
            self.g_optimizer = k.optimizers.RMSprop(0.01)
            self.d_optimizer = k.optimizers.RMSprop(0.01)

        def train_step(self, real):
            noise = latent(self.g_optimizer, tf.shape(real)[0], 3)
            with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
                fake = self.generator(noise, training=True)
                real_score = self.discriminator(real, training=True)
                fake_score = self.discriminator(fake, training=True)
                d_loss = 0.5 * tf.reduce_mean((real_score - 1.0) ** 2)
                d_loss += 0.5 * tf.reduce_mean(fake_score**2)
                g_loss = 0.5 * tf.reduce_mean((fake_score - 1.0) ** 2)
            descend(self.d_optimizer, d_tape, d_loss, self.discriminator.trainable_variables)
            descend(self.g_optimizer, g_tape, g_loss, self.generator.trainable_variables)
            logs = {"loss/generator": g_loss, "loss/discriminator": d_loss}
            return self.logs(logs, **logs)

    model = LSGAN()
    model.compile(**options)
    return model, batches(numbers(4))


# Each network has a loss scale of its own; the model's optimizer has none.
@program("d_loss", "g_loss", outputs={"d_loss": (16,), "g_loss": (8,)}, jit=("tf_keras",))
def mixed_precision_gan(k, **options):
    scaled = getattr(k.optimizers, "LossScaleOptimizer", k.mixed_precision.LossScaleOptimizer)

    class MixedPrecisionGAN(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.generator = network(k, 3, 8, 4, dtype="mixed_float16")
            self.discriminator = network(k, 4, 8, 1, dtype="mixed_float16")
            self.loss_fn = k.losses.BinaryCrossentropy(from_logits=True)
            self.g_optimizer = scaled(k.optimizers.Adam(0.01))
            self.d_optimizer = scaled(k.optimizers.Adam(0.01))

        def descend(self, optimizer, tape, scaled_loss, variables):
            gradients = tape.gradient(scaled_loss, variables)
            if hasattr(optimizer, "get_unscaled_gradients"):
                gradients = optimizer.get_unscaled_gradients(gradients)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        def scale(self, optimizer, loss):
            if hasattr(optimizer, "get_scaled_loss"):
                return optimizer.get_scaled_loss(loss)
            return optimizer.scale_loss(loss)

        def train_step(self, real):
            rows = tf.shape(real)[0]
            noise = latent(self.g_optimizer, rows, 3)
            with tf.GradientTape() as tape:
                fake = tf.cast(self.generator(noise), tf.float32)
                score = tf.cast(self.discriminator(tf.concat([real, fake], 0)), tf.float32)
                labels = tf.concat([tf.ones((rows, 1)), tf.zeros((rows, 1))], 0)
                d_loss = self.loss_fn(labels, score)
                scaled_loss = self.scale(self.d_optimizer, d_loss)
            variables = self.discriminator.trainable_variables
            self.descend(self.d_optimizer, tape, scaled_loss, variables)
            with tf.GradientTape() as tape:
                score = tf.cast(self.discriminator(self.generator(noise)), tf.float32)
                g_loss = self.loss_fn(tf.ones((rows, 1)), score)
                scaled_loss = self.scale(self.g_optimizer, g_loss)
            self.descend(self.g_optimizer, tape, scaled_loss, self.generator.trainable_variables)
            return self.logs({"d_loss": d_loss, "g_loss": g_loss}, d_loss=d_loss, g_loss=g_loss)

    model = MixedPrecisionGAN()
    model.compile(**options)
    return model, batches(numbers(4))


@tf.custom_gradient
def reversed_gradient(x):
    return tf.identity(x), lambda gradient: -0.3 * gradient


# One loss of two Losses; the features' gradient of the second is reversed.
@program("loss", outputs={"loss/label": (8,), "loss/domain": (16,)}, jit=("keras",))
def domain_adversarial(k, **options):
    class DomainAdversarial(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.features = network(k, 4, 6)
            self.labels, self.domains = network(k, 6, 3), network(k, 6, 1)
            self.label_loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.domain_loss = k.losses.BinaryCrossentropy(from_logits=True)

        def train_step(self, data):
            source, target, labels = data
            rows = tf.shape(source)[0]
            domains = tf.concat([tf.zeros((rows, 1)), tf.ones((rows, 1))], 0)
            with tf.GradientTape() as tape:
                features = self.features(tf.concat([source, target], 0), training=True)
                label_loss = self.label_loss(labels, self.labels(features[:rows]))
                domain_loss = self.domain_loss(domains, self.domains(reversed_gradient(features)))
                loss = label_loss + domain_loss
            descend(self.optimizer, tape, loss, self.trainable_variables)
            logs = {"loss": loss, "label": label_loss, "domain": domain_loss}
            return self.logs(logs, loss=loss)

    model = DomainAdversarial()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), numbers(4, seed=2), classes(3))


# The loss whose gradient is taken for the images alone is none that trains, though it has a Loss.
@program("loss")
def fgsm(k, **options):
    class Adversarial(Exposing, k.Sequential):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                tape.watch(x)
                attack = self.attacked(y, self(x, training=False))
            perturbed = x + 0.1 * tf.sign(tape.gradient(attack, x))
            with tf.GradientTape() as tape:
                predicted = self(tf.concat([x, perturbed], 0), training=True)
                loss = self.compute_loss(y=tf.concat([y, y], 0), y_pred=predicted)
            descend(self.optimizer, tape, loss, self.trainable_variables)
            return self.logs({"loss": loss, "attack": attack}, loss=loss)

    model = Adversarial(network(k, 4, 8, 3).layers)
    model.build((None, 4))
    model.attacked = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(0.01), loss, **options)
    return model, batches(numbers(4), classes(3))


# The "generated" image is the only variable; what the features' network has is left alone.
@program("total_loss", outputs={})
def style_transfer(k, **options):
    class StyleTransfer(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.features = k.layers.Conv2D(3, 3, padding="same", activation="relu")
            self.features.build((None, 4, 4, 1))
            self.features.trainable = False
            self.canvas = self.add_weight(
                name="canvas", shape=(1, 4, 4, 1), initializer="random_normal", trainable=True
            )

        def gram(self, features):
            return tf.einsum("bijc,bijd->bcd", features, features) / 16.0

        def train_step(self, data):
            content, style = data
            with tf.GradientTape() as tape:
                made = self.features(tf.convert_to_tensor(self.canvas))
                content_loss = tf.reduce_mean((made - self.features(content)) ** 2)
                style_loss = self.gram(made) - self.gram(self.features(style))
                total = 1e-2 * content_loss + tf.reduce_mean(style_loss**2)
                total += 1e-3 * tf.reduce_sum(
                    tf.image.total_variation(tf.convert_to_tensor(self.canvas))
                )
            descend(self.optimizer, tape, total, self.trainable_variables)
            return self.logs({"total_loss": total}, total_loss=total)

    model = StyleTransfer()
    model.compile(k.optimizers.Adam(0.02), **options)
    return model, batches(numbers(4, 4, 1), numbers(4, 4, 1, seed=5))


# The optimizer takes the gradient itself, of a function.
@program("d_loss", "g_loss", outputs={}, libraries=("tf_keras",))
def minimized_gan(k, **options):
    class MinimizedGAN(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.generator, self.discriminator = network(k, 3, 8, 4), network(k, 4, 8, 1)
            self.g_optimizer, self.d_optimizer = k.optimizers.SGD(0.1), k.optimizers.SGD(0.1)

        def train_step(self, real):
            noise = latent(self.g_optimizer, tf.shape(real)[0], 3)
            with tf.GradientTape() as tape:
                fake = self.discriminator(self.generator(noise))
                d_loss = tf.reduce_mean(tf.nn.softplus(-self.discriminator(real)))
                d_loss += tf.reduce_mean(tf.nn.softplus(fake))
            self.d_optimizer.minimize(d_loss, self.discriminator.trainable_variables, tape=tape)
            g_losses = []

            def g_loss():
                score = self.discriminator(self.generator(noise))
                g_losses.append(tf.reduce_mean(tf.nn.softplus(-score)))
                return g_losses[0]

            self.g_optimizer.minimize(g_loss, self.generator.trainable_variables)
            logs = {"d_loss": d_loss, "g_loss": g_losses[0]}
            return self.logs(logs, **logs)

    model = MinimizedGAN()
    model.compile(**options)
    return model, batches(numbers(4))
