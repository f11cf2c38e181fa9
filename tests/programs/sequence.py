"""Sequences: masked tokens, alignments, rewards over time."""

import numpy as np
import tensorflow as tf

from tests.programs.program import (
    BATCH_SIZE,
    BATCHES,
    LIBRARIES,
    Exposing,
    batches,
    classes,
    descend,
    network,
    numbers,
    program,
)


def tokens():
    """Returns token numbers [examples, 5]; each sequence ends with at least one 0, padding."""
    found = 1 + classes(5, 5)
    for number, sequence in enumerate(found):
        sequence[2 + number % 3 :] = 0
    return found


# The per-token loss has reduction none; the step masks and averages it.
@program("loss", outputs={"loss": (8, 4)})
def captioning(k, **options):
    class Captioner(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.image, self.embedding = network(k, 4, 6), k.layers.Embedding(6, 6)
            self.embedding.build((None, None))
            self.decoder, self.out = k.layers.GRU(6, return_sequences=True), k.layers.Dense(6)
            self.decoder.build((None, None, 6))
            self.out.build((None, None, 6))
            self.per_token = k.losses.SparseCategoricalCrossentropy(
                from_logits=True, reduction="none"
            )
            self.tracker = k.metrics.Mean(name="loss")

        @property
        def metrics(self):
            return [self.tracker]

        def train_step(self, data):
            image, caption = data
            given, wanted = caption[:, :-1], caption[:, 1:]
            with tf.GradientTape() as tape:
                state = self.image(image, training=True)
                hidden = self.decoder(self.embedding(given), initial_state=state)
                losses = self.per_token(wanted, self.out(hidden))
                mask = tf.cast(wanted != 0, losses.dtype)
                loss = tf.reduce_sum(losses * mask) / tf.reduce_sum(mask)
            descend(self.optimizer, tape, loss, self.trainable_variables)
            self.tracker.update_state(loss)
            return self.logs({"loss": self.tracker.result()}, loss=loss)

    model = Captioner()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), tokens())


def ctc(labels, logits):
    """Returns the CTC loss of each example, [batch, 1]; labels are padded with 0, the blank."""
    lengths = tf.reduce_sum(tf.cast(labels > 0, tf.int32), 1)
    steps = tf.fill(tf.shape(lengths), tf.shape(logits)[1])
    losses = tf.nn.ctc_loss(labels, logits, lengths, steps, logits_time_major=False, blank_index=0)
    return losses[:, None]


def recognizer(k):
    frames = k.layers.Input((6, 4), name="frames")
    hidden = k.layers.GRU(6, return_sequences=True)(frames)
    return frames, k.layers.Dense(6)(hidden)


# An end-point layer adds a loss per example, [batch, 1], as text recognizers do: tf_keras
# differentiates it as it is and reports its mean, Keras 3 its sum.
@program(
    "loss",
    vectors=("loss",),
    outputs={"loss": (8, 1)},
    libraries=("tf_keras",),
    by_hand={"loss": lambda logs: np.float32(BATCH_SIZE) * np.float32(logs["loss"])},
)
def ctc_end_point(k, **options):
    return _ctc_end_point(k, **options)


@program("loss", outputs={}, libraries=("keras",))
def ctc_end_point_in_keras_3(k, **options):
    return _ctc_end_point(k, **options)


def _ctc_end_point(k, **options):
    class EndPoint(k.layers.Layer):
        def call(self, given):
            labels, logits = given
            self.add_loss(ctc(labels, logits))
            return logits

    frames, logits = recognizer(k)
    labels = k.layers.Input((5,), name="labels", dtype="int32")
    model = k.Model([frames, labels], EndPoint()([labels, logits]))
    model.compile(k.optimizers.Adam(0.01), **options)
    dataset = batches(numbers(6, 4), tokens())
    return model, dataset.map(lambda frames, labels: ({"frames": frames, "labels": labels},))


# The same with a step of its own, which reports the mean.
@program("ctc", vectors=("ctc",), outputs={"ctc": (8, 1)}, jit=("keras",))
def speech(k, **options):
    class Speech(Exposing, k.Model):
        def train_step(self, data):
            frames, labels = data
            with tf.GradientTape() as tape:
                losses = ctc(labels, self(frames, training=True))
            descend(self.optimizer, tape, losses, self.trainable_variables)
            return self.logs({"ctc": tf.reduce_mean(losses)}, ctc=losses)

    frames, logits = recognizer(k)
    model = Speech(frames, logits)
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(6, 4), tokens())


# Two losses of one forward pass, each for its own network.
@program("critic_loss", "actor_loss", outputs={"critic_loss": (8,)}, jit=LIBRARIES)
def actor_critic(k, **options):
    class ActorCritic(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.actor, self.critic = network(k, 4, 8, 3), network(k, 4, 8, 1)
            self.actor_optimizer = k.optimizers.Adam(0.01)
            self.critic_optimizer = k.optimizers.Adam(0.02)
            self.huber = k.losses.Huber()

        def train_step(self, data):
            states, actions, returns = data
            with tf.GradientTape(persistent=True) as tape:
                values = self.critic(states, training=True)
                critic_loss = self.huber(returns, values)
                chances = tf.nn.log_softmax(self.actor(states, training=True))
                taken = tf.reduce_sum(chances * tf.one_hot(actions, 3), -1)
                advantages = tf.stop_gradient(returns - values)[:, 0]
                entropy = -tf.reduce_sum(tf.exp(chances) * chances, -1)
                actor_loss = -tf.reduce_mean(taken * advantages + 0.01 * entropy)
            descend(self.critic_optimizer, tape, critic_loss, self.critic.trainable_variables)
            descend(self.actor_optimizer, tape, actor_loss, self.actor.trainable_variables)
            logs = {"actor_loss": actor_loss, "critic_loss": critic_loss}
            return self.logs(logs, **logs)

    model = ActorCritic()
    model.compile(**options)
    rewards = numbers(5, seed=4)
    returns = np.sum(rewards * 0.9 ** np.arange(5), -1, keepdims=True, dtype=np.float32)
    assert len(returns) == BATCH_SIZE * BATCHES
    return model, batches(numbers(4), classes(3), returns)


# An old policy in the batch, a clipped ratio, one loss with a coefficient for each term.
@program("total", outputs={"total": (8,)})
def ppo(k, **options):
    class PPO(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.body, self.policy, self.value = (
                network(k, *units) for units in ((4, 8), (8, 3), (8, 1))
            )
            self.mse = k.losses.MeanSquaredError()

        def train_step(self, data):
            states, actions, advantages, old = data
            with tf.GradientTape() as tape:
                body = self.body(states)
                chances = tf.nn.log_softmax(self.policy(body))
                ratio = tf.exp(tf.gather(chances, actions, batch_dims=1) - old)
                clipped = tf.clip_by_value(ratio, 0.8, 1.2)
                surrogate = tf.minimum(ratio * advantages, clipped * advantages)
                value_loss = self.mse((advantages + 0.5)[:, None], self.value(body))
                total = -tf.reduce_mean(surrogate) + 0.5 * value_loss
            variables = self.trainable_variables
            gradients, _ = tf.clip_by_global_norm(tape.gradient(total, variables), 0.5)
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return self.logs({"total": total, "value": value_loss}, total=total)

    model = PPO()
    model.compile(k.optimizers.Adam(0.01), **options)
    old = -np.abs(numbers(seed=6))
    return model, batches(numbers(4), classes(3), numbers(seed=5), old)
