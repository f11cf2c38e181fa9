"""Custom loops: steps as tf.functions that return their scalars by name."""

import numpy as np
import tensorflow as tf

from tests.programs.program import batches, classes, descend, network, numbers

LOOPS = []


def loop(*losses):
    """Registers what makes a step and its batches, and the losses' names as returned."""

    def register(make):
        LOOPS.append((make, losses))
        return make

    return register


@loop("gen_loss", "disc_loss")
def dcgan_loop(k):
    generator, discriminator = network(k, 3, 8, 4), network(k, 4, 8, 1)
    g_optimizer, d_optimizer = k.optimizers.Adam(0.01), k.optimizers.Adam(0.01)
    cross_entropy = k.losses.BinaryCrossentropy(from_logits=True)

    @tf.function
    def train_step(images):
        noise = tf.random.normal((tf.shape(images)[0], 3))
        with tf.GradientTape() as gen_tape, tf.GradientTape() as disc_tape:
            made = generator(noise, training=True)
            real, fake = discriminator(images, training=True), discriminator(made, training=True)
            gen_loss = cross_entropy(tf.ones_like(fake), fake)
            disc_loss = cross_entropy(tf.ones_like(real), real)
            disc_loss += cross_entropy(tf.zeros_like(fake), fake)
        descend(g_optimizer, gen_tape, gen_loss, generator.trainable_variables)
        descend(d_optimizer, disc_tape, disc_loss, discriminator.trainable_variables)
        return {"gen_loss": gen_loss, "disc_loss": disc_loss}

    return train_step, batches(numbers(4)), [generator, discriminator]


@loop("gen_g", "gen_f", "disc_x", "disc_y")
def cycle_gan_loop(k):
    gen_g, gen_f = network(k, 4, 6, 4), network(k, 4, 6, 4)
    disc_x, disc_y = network(k, 4, 6, 1), network(k, 4, 6, 1)
    models = [gen_g, gen_f, disc_x, disc_y]
    optimizers = [k.optimizers.Adam(0.01) for _ in models]
    cross_entropy = k.losses.BinaryCrossentropy(from_logits=True)

    def discriminate(real, fake):
        real_loss = cross_entropy(tf.ones_like(real), real)
        return 0.5 * (real_loss + cross_entropy(tf.zeros_like(fake), fake))

    @tf.function
    def train_step(batch):
        x, y = batch
        with tf.GradientTape(persistent=True) as tape:
            fake_y, fake_x = gen_g(x, training=True), gen_f(y, training=True)
            cycle = tf.reduce_mean(tf.abs(x - gen_f(fake_y)))
            cycle = 10.0 * (cycle + tf.reduce_mean(tf.abs(y - gen_g(fake_x))))
            score_y, score_x = disc_y(fake_y), disc_x(fake_x)
            losses = {
                "gen_g": cross_entropy(tf.ones_like(score_y), score_y) + cycle,
                "gen_f": cross_entropy(tf.ones_like(score_x), score_x) + cycle,
                "disc_x": discriminate(disc_x(x), score_x),
                "disc_y": discriminate(disc_y(y), score_y),
            }
        for model, optimizer, loss in zip(models, optimizers, losses.values(), strict=True):
            descend(optimizer, tape, loss, model.trainable_variables)
        return losses

    return train_step, batches(numbers(4), numbers(4, seed=2)), models


@loop("critic", "generator")
def wgan_gp_loop(k):
    generator, critic = network(k, 3, 8, 4), network(k, 4, 8, 1)
    g_optimizer, c_optimizer = k.optimizers.RMSprop(0.01), k.optimizers.RMSprop(0.01)

    @tf.function
    def train_step(images):
        noise = tf.random.normal((tf.shape(images)[0], 3))
        with tf.GradientTape() as tape:
            fake = generator(noise)
            mixed = 0.5 * (images + fake)
            with tf.GradientTape() as inner:
                inner.watch(mixed)
                score = critic(mixed)
            slope = tf.norm(inner.gradient(score, mixed), axis=-1)
            loss = tf.reduce_mean(critic(fake)) - tf.reduce_mean(critic(images))
            loss += 10.0 * tf.reduce_mean((slope - 1.0) ** 2)
        descend(c_optimizer, tape, loss, critic.trainable_variables)
        with tf.GradientTape() as tape:
            g_loss = -tf.reduce_mean(critic(generator(noise)))
        descend(g_optimizer, tape, g_loss, generator.trainable_variables)
        return {"critic": loss, "generator": g_loss}

    return train_step, batches(numbers(4)), [generator, critic]


@loop("policy", "value")
def actor_critic_loop(k):
    actor, critic = network(k, 4, 8, 3), network(k, 4, 8, 1)
    actor_optimizer, critic_optimizer = k.optimizers.Adam(0.01), k.optimizers.Adam(0.02)

    @tf.function(reduce_retracing=True)
    def train_step(batch):
        states, actions, returns = batch
        with tf.GradientTape(persistent=True) as tape:
            value = critic(states)[:, 0]
            chances = tf.gather(tf.nn.log_softmax(actor(states)), actions, batch_dims=1)
            policy = -tf.reduce_mean(chances * tf.stop_gradient(returns - value))
            regression = tf.reduce_mean(tf.square(returns - value))
        descend(actor_optimizer, tape, policy, actor.trainable_variables)
        descend(critic_optimizer, tape, regression, critic.trainable_variables)
        return {"policy": policy, "value": regression}

    return train_step, batches(numbers(4), classes(3), numbers(seed=4)), [actor, critic]


# XLA compiles the step; its probe trains on features that it leaves alone.
@loop("contrastive", "probe")
def simclr_loop(k):
    encoder, probe = network(k, 4, 6), network(k, 6, 3)
    encoder_optimizer, probe_optimizer = k.optimizers.Adam(0.01), k.optimizers.Adam(0.01)
    probe_loss_fn = k.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(jit_compile=True)
    def train_step(batch):
        first, second, labels = batch
        with tf.GradientTape() as tape:
            similar = tf.matmul(encoder(first), encoder(second), transpose_b=True)
            numbers_ = tf.range(tf.shape(similar)[0])
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(numbers_, similar)
            loss = tf.reduce_mean(losses)
        descend(encoder_optimizer, tape, loss, encoder.trainable_variables)
        with tf.GradientTape() as tape:
            probe_loss = probe_loss_fn(labels, probe(tf.stop_gradient(encoder(first))))
        descend(probe_optimizer, tape, probe_loss, probe.trainable_variables)
        return {"contrastive": loss, "probe": probe_loss}

    x = numbers(4)
    return train_step, batches(x, x + np.float32(0.1), classes(3)), [encoder, probe]


# One loss among its terms: by the rule for mappings, "loss" is the loss.
@loop("loss")
def pinn_loop(k):
    field, optimizer = network(k, 1, 8, 8, 1), k.optimizers.Adam(0.01)

    @tf.function
    def train_step(x):
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                u = field(x)
            equation = tf.reduce_mean((inner.gradient(u, x) + u) ** 2)
            start = tf.reduce_mean((field(tf.zeros((1, 1))) - 1.0) ** 2)
            loss = equation + start
        descend(optimizer, tape, loss, field.trainable_variables)
        return {"loss": loss, "equation": equation, "start": start}

    return train_step, batches(numbers(1)), [field]
