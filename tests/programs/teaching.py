"""Teachers and students, and the library's own step with losses in unusual places."""

import tensorflow as tf

from tests.programs.program import (
    Exposing,
    batches,
    classes,
    descend,
    network,
    numbers,
    program,
)


# Two Losses make one. The log entry of the second is a multiple of what its Loss returned.
@program("loss", outputs={"loss/student_loss": (8,), "loss/kl_divergence": (8,)}, jit=("tf_keras",))
def distillation(k, **options):
    class Distiller(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.teacher, self.student = network(k, 4, 8, 3), network(k, 4, 4, 3)
            self.teacher.trainable = False
            self.student_loss_fn = k.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.distillation_loss_fn = k.losses.KLDivergence()

        def train_step(self, data):
            x, y = data
            soft = tf.nn.softmax(self.teacher(x, training=False) / 3.0)
            with tf.GradientTape() as tape:
                predicted = self.student(x, training=True)
                student_loss = self.student_loss_fn(y, predicted)
                distilled = self.distillation_loss_fn(soft, tf.nn.softmax(predicted / 3.0)) * 9.0
                loss = 0.1 * student_loss + 0.9 * distilled
            descend(self.optimizer, tape, loss, self.student.trainable_variables)
            logs = {"loss": loss, "student_loss": student_loss, "distillation_loss": distilled}
            return self.logs(logs, loss=loss)

    model = Distiller()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), classes(3))


# The teacher is the student's average; the consistency term compares both on unlabelled data.
@program("loss", outputs={"loss/supervised": (8,), "loss/mean_squared_error": (8,)})
def mean_teacher(k, **options):
    class MeanTeacher(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = network(k, 4, 8, 3), network(k, 4, 8, 3)
            self.teacher.set_weights(self.student.get_weights())
            self.cross_entropy = k.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.consistency = k.losses.MeanSquaredError()
            self.supervised = k.metrics.Mean(name="supervised")
            self.total = k.metrics.Mean(name="loss")

        def train_step(self, data):
            x, unlabelled, y = data
            wanted = tf.nn.softmax(self.teacher(unlabelled, training=False))
            with tf.GradientTape() as tape:
                supervised = self.cross_entropy(y, self.student(x, training=True))
                made = tf.nn.softmax(self.student(unlabelled, training=True))
                loss = supervised + 2.0 * self.consistency(wanted, made)
            descend(self.optimizer, tape, loss, self.student.trainable_variables)
            for mine, its in zip(self.student.weights, self.teacher.weights, strict=True):
                its.assign(its * 0.95 + mine * 0.05)
            self.supervised.update_state(supervised)
            self.total.update_state(loss)
            logs = {"loss": self.total.result(), "supervised": self.supervised.result()}
            return self.logs(logs, loss=loss)

    model = MeanTeacher()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), numbers(4, seed=2), classes(3))


# A layer calls a Loss and adds what it returns; the model has no other loss.
@program("loss", outputs={"loss": (8,)}, jit=("keras",))
def logistic_end_point(k, **options):
    class EndPoint(k.layers.Layer):
        def __init__(self, **facts):
            super().__init__(**facts)
            self.loss_fn = k.losses.BinaryCrossentropy(from_logits=True)

        def call(self, given):
            logits, targets = given
            self.add_loss(self.loss_fn(targets, logits))
            return tf.nn.sigmoid(logits)

    x, targets = k.layers.Input((4,), name="x"), k.layers.Input((1,), name="targets")
    predicted = EndPoint()([k.layers.Dense(1)(x), targets])
    model = k.Model([x, targets], predicted)
    model.compile(k.optimizers.Adam(0.01), **options)
    labels = classes(2, 1).astype("float32")
    dataset = batches(numbers(4), labels)
    return model, dataset.map(lambda x, targets: ({"x": x, "targets": targets},))


# The stock step, two heads, one of them weighted.
@program("loss", outputs={"price": (8,), "kind": (8,)}, jit=("keras",))
def two_heads(k, **options):
    x = k.layers.Input((4,))
    hidden = k.layers.Dense(6, activation="tanh")(x)
    heads = {
        "price": k.layers.Dense(1, name="price")(hidden),
        "kind": k.layers.Dense(3, name="kind")(hidden),
    }
    model = k.Model(x, heads)
    model.compile(
        k.optimizers.Adam(0.01),
        {"price": "mse", "kind": k.losses.SparseCategoricalCrossentropy(from_logits=True)},
        loss_weights={"price": 0.5, "kind": 2.0},
        **options,
    )
    dataset = batches(numbers(4), numbers(1, seed=2), classes(3))
    return model, dataset.map(lambda x, price, kind: (x, {"price": price, "kind": kind}))


# The library's step, with a custom compute_loss that adds a penalty to the compiled loss. tf_keras
# reports the compiled loss alone.
@program("loss", jit=("keras",))
def penalized(k, **options):
    class Penalized(Exposing, k.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **_):
            loss = super().compute_loss(x, y, y_pred, sample_weight)
            self.total = loss + 0.1 * tf.reduce_mean(tf.abs(y_pred))
            return self.total

        def train_step(self, data):
            return self.logs(super().train_step(data), loss=self.total)

    model = Penalized(network(k, 4, 8, 1).layers)
    model.build((None, 4))
    model.compile(k.optimizers.Adam(0.01), k.losses.MeanSquaredError(), **options)
    return model, batches(numbers(4), numbers(1, seed=2))


# compute_loss without a Loss, and a step of its own that reports what the loss is made of.
@program("loss", outputs={})
def quantiles(k, **options):
    class Quantiles(Exposing, k.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **_):
            error = y - y_pred
            levels = tf.constant([0.1, 0.5, 0.9])
            return tf.reduce_mean(tf.maximum(levels * error, (levels - 1.0) * error))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                predicted = self(x, training=True)
                loss = self.compute_loss(x=x, y=y, y_pred=predicted)
            descend(self.optimizer, tape, loss, self.trainable_variables)
            covered = tf.reduce_mean(tf.cast(y < predicted, tf.float32), axis=0)
            return self.logs({"low": covered[0], "high": covered[2]}, loss=loss)

    model = Quantiles(network(k, 4, 8, 3).layers)
    model.build((None, 4))
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), numbers(1, seed=2))


# Two adversaries without a name among the logs or the metrics, beside what compute_loss returned.
@program("loss", "loss_1", jit=("tf_keras",))
def fair_classifier(k, **options):
    class Fair(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.classifier, self.adversary = network(k, 4, 6, 3), network(k, 3, 4, 1)
            self.adversary_optimizer = k.optimizers.SGD(0.1)

        def call(self, x, training=False):
            return self.classifier(x, training=training)

        def train_step(self, data):
            x, y = data
            group = tf.cast(x[:, :1] > 0, tf.float32)
            with tf.GradientTape(persistent=True) as tape:
                predicted = self(x, training=True)
                guess = self.adversary(tf.nn.softmax(predicted))
                adverse = tf.nn.sigmoid_cross_entropy_with_logits(group, guess)
                adverse = tf.reduce_mean(adverse)
                loss = self.compute_loss(x=x, y=y, y_pred=predicted)
            descend(self.optimizer, tape, loss, self.classifier.trainable_variables)
            descend(self.adversary_optimizer, tape, adverse, self.adversary.trainable_variables)
            return self.logs({"twice": 2.0 * loss}, loss=loss, loss_1=adverse)

    model = Fair()
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(0.01), loss, **options)
    return model, batches(numbers(4), classes(3))
