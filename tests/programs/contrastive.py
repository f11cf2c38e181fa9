"""Learning by comparing examples with each other."""

import tensorflow as tf

from tests.programs.program import (
    LIBRARIES,
    Exposing,
    batches,
    classes,
    descend,
    network,
    numbers,
    program,
)


def logits(first, second, temperature=0.5):
    first, second = tf.math.l2_normalize(first, 1), tf.math.l2_normalize(second, 1)
    return tf.matmul(first, second, transpose_b=True) / temperature


# A loss per triplet, [batch], is differentiated as it is.
@program("loss", outputs={"loss": (8,)}, vectors=("loss",), jit=("tf_keras",))
def siamese(k, **options):
    class Siamese(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.embedding = network(k, 4, 6, 3)
            self.tracker = k.metrics.Mean(name="loss")

        @property
        def metrics(self):
            return [self.tracker]

        def train_step(self, data):
            with tf.GradientTape() as tape:
                anchor, positive, negative = (self.embedding(x) for x in data)
                near = tf.reduce_sum(tf.square(anchor - positive), -1)
                far = tf.reduce_sum(tf.square(anchor - negative), -1)
                loss = tf.maximum(near - far + 0.5, 0.0)
            descend(self.optimizer, tape, loss, self.embedding.trainable_weights)
            self.tracker.update_state(loss)
            return self.logs({"loss": self.tracker.result()}, loss=loss)

    model = Siamese()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), numbers(4, seed=2), numbers(4, seed=3))


# The contrastive loss is a vector of a function, the probe's comes from a Loss. Views are noisy
# copies.
@program(
    "c_loss",
    "p_loss",
    outputs={"c_loss": (16,), "p_loss": (8,)},
    vectors=("c_loss",),
    jit=LIBRARIES,
)
def simclr(k, **options):
    class SimCLR(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = network(k, 4, 6), network(k, 6, 4)
            self.probe = network(k, 6, 3)

        def compile(self, contrastive_optimizer, probe_optimizer, **options):
            super().compile(**options)
            self.contrastive_optimizer = contrastive_optimizer
            self.probe_optimizer = probe_optimizer
            self.probe_loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.contrastive_tracker = k.metrics.Mean(name="c_loss")
            self.probe_tracker = k.metrics.Mean(name="p_loss")
            self.accuracy = k.metrics.SparseCategoricalAccuracy(name="p_acc")

        @property
        def metrics(self):
            return [self.contrastive_tracker, self.probe_tracker, self.accuracy]

        def contrastive_loss(self, first, second):
            similar = logits(first, second)
            labels = tf.range(tf.shape(first)[0])
            cross_entropy = k.losses.sparse_categorical_crossentropy
            there = cross_entropy(labels, similar, from_logits=True)
            back = cross_entropy(labels, tf.transpose(similar), from_logits=True)
            return tf.concat([there, back], 0) / 2

        def train_step(self, data):
            first, second, labels = data
            with tf.GradientTape() as tape:
                heads = (self.head(self.encoder(x, training=True)) for x in (first, second))
                loss = self.contrastive_loss(*heads)
            variables = self.encoder.trainable_weights + self.head.trainable_weights
            descend(self.contrastive_optimizer, tape, loss, variables)
            self.contrastive_tracker.update_state(loss)
            with tf.GradientTape() as tape:
                predicted = self.probe(self.encoder(first, training=False), training=True)
                probe_loss = self.probe_loss(labels, predicted)
            descend(self.probe_optimizer, tape, probe_loss, self.probe.trainable_weights)
            self.probe_tracker.update_state(probe_loss)
            self.accuracy.update_state(labels, predicted)
            results = {m.name: m.result() for m in self.metrics}
            return self.logs(results, c_loss=loss, p_loss=probe_loss)

    model = SimCLR()
    model.compile(k.optimizers.Adam(0.01), k.optimizers.Adam(0.01), **options)
    x = numbers(4)
    return model, batches(x, x + 0.1 * numbers(4, seed=2), classes(3))


# A Loss of the user's own, given to compile; the step is the library's.
@program("loss")
def supervised_contrastive(k, **options):
    class SupervisedContrastive(k.losses.Loss):
        def call(self, labels, features):
            labels = tf.reshape(labels, (-1, 1))
            same = tf.cast(tf.equal(labels, tf.transpose(labels)), tf.float32)
            others = 1.0 - tf.eye(8)  # the whole batch, without the example itself
            same, similar = same * others, logits(features, features)
            exponents = tf.exp(similar - tf.stop_gradient(tf.reduce_max(similar, 1, keepdims=True)))
            share = tf.math.log(exponents / tf.reduce_sum(exponents * others, 1, keepdims=True))
            return -tf.math.divide_no_nan(tf.reduce_sum(share * same, 1), tf.reduce_sum(same, 1))

    model = network(k, 4, 6, 3)
    model.compile(k.optimizers.Adam(0.01), SupervisedContrastive(), **options)
    return model, batches(numbers(4), classes(3))


# A target network follows the online one; the loss has a key that says what it is.
@program("byol_loss", outputs={})
def byol(k, **options):
    class BYOL(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.online, self.predictor = network(k, 4, 6, 4), network(k, 4, 4)
            self.target = network(k, 4, 6, 4)
            self.target.set_weights(self.online.get_weights())
            self.target.trainable = False

        def distance(self, x, y):
            predicted = tf.math.l2_normalize(self.predictor(self.online(x)), -1)
            wanted = tf.stop_gradient(tf.math.l2_normalize(self.target(y), -1))
            return 2.0 - 2.0 * tf.reduce_sum(predicted * wanted, -1)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.distance(x, y) + self.distance(y, x))
            descend(self.optimizer, tape, loss, self.trainable_variables)
            for online, target in zip(self.online.weights, self.target.weights, strict=True):
                target.assign(0.99 * target + 0.01 * online)
            return self.logs({"byol_loss": loss}, byol_loss=loss)

    model = BYOL()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), numbers(4, seed=2))


# The vector that is differentiated has a log entry made from it by a mean.
@program("info_nce", outputs={"info_nce": (8,)}, vectors=("info_nce",), jit=("keras",))
def two_towers(k, **options):
    class TwoTowers(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.images, self.texts = network(k, 4, 6, 3), network(k, 5, 6, 3)

        def train_step(self, data):
            image, text = data
            with tf.GradientTape() as tape:
                similar = logits(self.images(image), self.texts(text))
                labels = tf.range(tf.shape(similar)[0])
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, similar)
            descend(self.optimizer, tape, losses, self.trainable_variables)
            return self.logs({"info_nce": tf.reduce_mean(losses)}, info_nce=losses)

    model = TwoTowers()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), numbers(5, seed=2))
