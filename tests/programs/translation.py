"""Images into other images: a generator for every direction."""

import tensorflow as tf

from tests.programs.program import Exposing, batches, descend, network, numbers, program


# One persistent tape, four losses, and one instance of each Loss for all of their calls.
@program(
    "G_loss",
    "F_loss",
    "D_X_loss",
    "D_Y_loss",
    outputs={
        "G_loss/mean_squared_error": (8,),
        "F_loss/mean_squared_error": (8,),
        "G_loss/mean_absolute_error": (8,),
        "F_loss/mean_absolute_error": (8,),
        "G_loss/mean_absolute_error_2": (8,),
        "F_loss/mean_absolute_error_2": (8,),
        "D_X_loss/mean_squared_error": (8,),
        "D_X_loss/mean_squared_error_2": (8,),
        "D_Y_loss/mean_squared_error": (8,),
        "D_Y_loss/mean_squared_error_2": (8,),
    },
    jit=("keras",),
)
def cycle_gan(k, **options):
    class CycleGAN(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.gen_g, self.gen_f = network(k, 4, 6, 4), network(k, 4, 6, 4)
            self.disc_x, self.disc_y = network(k, 4, 6, 1), network(k, 4, 6, 1)

        def compile(self, optimizers, **options):
            super().compile(**options)
            self.g_optimizer, self.f_optimizer, self.x_optimizer, self.y_optimizer = optimizers
            self.adversarial, self.cycle = k.losses.MeanSquaredError(), k.losses.MeanAbsoluteError()

        def disc_loss(self, real, fake):
            real_loss = self.adversarial(tf.ones_like(real), real)
            return 0.5 * (real_loss + self.adversarial(tf.zeros_like(fake), fake))

        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape(persistent=True) as tape:
                fake_y, fake_x = self.gen_g(x, training=True), self.gen_f(y, training=True)
                cycled_x, cycled_y = self.gen_f(fake_y), self.gen_g(fake_x)
                same_y, same_x = self.gen_g(y), self.gen_f(x)
                score_x, score_fake_x = self.disc_x(x), self.disc_x(fake_x)
                score_y, score_fake_y = self.disc_y(y), self.disc_y(fake_y)
                g_loss = self.adversarial(tf.ones_like(score_fake_y), score_fake_y)
                f_loss = self.adversarial(tf.ones_like(score_fake_x), score_fake_x)
                g_cycle = self.cycle(y, cycled_y) * 10.0
                f_cycle = self.cycle(x, cycled_x) * 10.0
                g_same, f_same = self.cycle(y, same_y) * 5.0, self.cycle(x, same_x) * 5.0
                g_total, f_total = g_loss + g_cycle + g_same, f_loss + f_cycle + f_same
                x_loss = self.disc_loss(score_x, score_fake_x)
                y_loss = self.disc_loss(score_y, score_fake_y)
            descend(self.g_optimizer, tape, g_total, self.gen_g.trainable_variables)
            descend(self.f_optimizer, tape, f_total, self.gen_f.trainable_variables)
            descend(self.x_optimizer, tape, x_loss, self.disc_x.trainable_variables)
            descend(self.y_optimizer, tape, y_loss, self.disc_y.trainable_variables)
            logs = {"G_loss": g_total, "F_loss": f_total, "D_X_loss": x_loss, "D_Y_loss": y_loss}
            return self.logs(logs, **logs)

    model = CycleGAN()
    model.compile([k.optimizers.Adam(0.01) for _ in range(4)], **options)
    return model, batches(numbers(4), numbers(4, seed=2))


# Two terms of one loss have log entries of their own, which name their outputs. A metric takes the
# other loss's two terms.
@program(
    "gen_total_loss",
    "disc_loss",
    outputs={
        "gen_total_loss/gen_gan_loss": (8, 2, 2),
        "gen_total_loss/gen_l1_loss": (8, 4, 4),
        "disc_loss/real": (8, 2, 2),
        "disc_loss/fake": (8, 2, 2),
    },
    jit=("tf_keras",),
)
def pix2pix(k, **options):
    class Pix2Pix(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            conv = k.layers.Conv2D
            self.generator = k.Sequential(
                [
                    k.layers.Input((4, 4, 1)),
                    conv(3, 3, padding="same", activation="relu"),
                    conv(1, 3, padding="same"),
                ]
            )
            self.discriminator = k.Sequential(
                [
                    k.layers.Input((4, 4, 2)),
                    conv(3, 3, strides=2, padding="same", activation="relu"),
                    conv(1, 1),
                ]
            )
            self.cross_entropy = k.losses.BinaryCrossentropy(from_logits=True)
            self.l1 = k.losses.MeanAbsoluteError()
            self.real, self.fake = k.metrics.Mean(name="real"), k.metrics.Mean(name="fake")
            self.g_optimizer, self.d_optimizer = k.optimizers.Adam(0.01), k.optimizers.Adam(0.01)

        def train_step(self, data):
            image, target = data
            with tf.GradientTape() as gen_tape, tf.GradientTape() as disc_tape:
                made = self.generator(image, training=True)
                real = self.discriminator(tf.concat([image, target], -1), training=True)
                fake = self.discriminator(tf.concat([image, made], -1), training=True)
                gan_loss = self.cross_entropy(tf.ones_like(fake), fake)
                l1_loss = self.l1(target, made)
                total = gan_loss + 100.0 * l1_loss
                real_loss = self.cross_entropy(tf.ones_like(real), real)
                fake_loss = self.cross_entropy(tf.zeros_like(fake), fake)
                disc_loss = real_loss + fake_loss
            descend(self.g_optimizer, gen_tape, total, self.generator.trainable_variables)
            descend(self.d_optimizer, disc_tape, disc_loss, self.discriminator.trainable_variables)
            self.real.update_state(real_loss)
            self.fake.update_state(fake_loss)
            logs = {
                "gen_total_loss": total,
                "gen_gan_loss": gan_loss,
                "gen_l1_loss": l1_loss,
                "disc_loss": disc_loss,
            }
            return self.logs(logs, gen_total_loss=total, disc_loss=disc_loss)

    model = Pix2Pix()
    model.compile(**options)
    return model, batches(numbers(4, 4, 1), numbers(4, 4, 1, seed=3))
