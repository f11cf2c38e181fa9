"""Derivatives for inputs and for variables inside a loss, and two gradients of one step."""

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


# The equation's derivatives are gradients for inputs, taken in inner tapes.
@program("loss", outputs={})
def pinn(k, **options):
    class PINN(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.field = network(k, 2, 8, 8, 1)

        def residual(self, x, t):
            with tf.GradientTape() as second, tf.GradientTape(persistent=True) as first:
                second.watch(x)
                first.watch([x, t])
                u = self.field(tf.concat([x, t], -1))
                u_x = first.gradient(u, x)
            u_t = first.gradient(u, t)
            return u_t + u * u_x - 0.01 * second.gradient(u_x, x)

        def train_step(self, data):
            inner, initial = data
            x, t = inner[:, :1], inner[:, 1:]
            with tf.GradientTape() as tape:
                equation = tf.reduce_mean(self.residual(x, t) ** 2)
                at_start = self.field(tf.concat([initial, tf.zeros_like(initial)], -1))
                start = tf.reduce_mean((at_start + tf.sin(3.14 * initial)) ** 2)
                ends = self.field(tf.concat([tf.sign(x), t], -1))
                boundary = tf.reduce_mean(ends**2)
                loss = equation + 10.0 * start + boundary
            descend(self.optimizer, tape, loss, self.field.trainable_variables)
            logs = {"loss": loss, "pde": equation, "initial": start, "boundary": boundary}
            return self.logs(logs, loss=loss)

    model = PINN()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(2), numbers(1, seed=2))


# The first gradient finds the worst place near by, the second one trains there.
@program("loss", "sharp_loss", outputs={"loss": (8,), "sharp_loss": (8,)}, jit=("keras",))
def sharpness_aware(k, **options):
    class SAM(Exposing, k.Sequential):
        def train_step(self, data):
            x, y = data
            variables = self.trainable_variables
            with tf.GradientTape() as tape:
                loss = self.cross_entropy(y, self(x, training=True))
            gradients = tape.gradient(loss, variables)
            scale = 0.05 / (tf.linalg.global_norm(gradients) + 1e-12)
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.assign_add(gradient * scale)
            with tf.GradientTape() as tape:
                sharp = self.cross_entropy(y, self(x, training=True))
            sharp_gradients = tape.gradient(sharp, variables)
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.assign_sub(gradient * scale)
            self.optimizer.apply_gradients(zip(sharp_gradients, variables, strict=True))
            logs = {"sharp_loss": sharp, "loss": loss}
            return self.logs(logs, **logs)

    model = SAM(network(k, 4, 8, 3).layers)
    model.build((None, 4))
    model.cross_entropy = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.SGD(0.1), **options)
    return model, batches(numbers(4), classes(3))


# The inner gradient is taken for variables too, so the support loss is a loss of the step.
@program("support", "query", outputs={}, jit=("tf_keras",))
def meta_learning(k, **options):
    class MAML(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.kernel = self.add_weight(
                name="kernel", shape=(4, 1), initializer="glorot_uniform", trainable=True
            )

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as outer:
                with tf.GradientTape() as inner:
                    kernel = tf.convert_to_tensor(self.kernel)
                    support = tf.reduce_mean((tf.matmul(x[:4], kernel) - y[:4]) ** 2)
                (gradient,) = inner.gradient(support, self.trainable_variables)
                adapted = kernel - 0.1 * gradient
                query = tf.reduce_mean((tf.matmul(x[4:], adapted) - y[4:]) ** 2)
            descend(self.optimizer, outer, query, self.trainable_variables)
            return self.logs({"query": query, "support": support}, support=support, query=query)

    model = MAML()
    model.compile(k.optimizers.SGD(0.1), **options)
    return model, batches(numbers(4), numbers(1, seed=2))


# A list is differentiated: its sum is the loss, and no log entry is that sum.
@program("loss", outputs={"loss/regression": (8,), "loss/classes": (8,)}, jit=LIBRARIES)
def multi_task(k, **options):
    class MultiTask(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.body, self.one, self.other = (network(k, *u) for u in ((4, 6), (6, 1), (6, 3)))
            self.mse = k.losses.MeanSquaredError()
            self.cross_entropy = k.losses.SparseCategoricalCrossentropy(from_logits=True)

        def train_step(self, data):
            x, number, label = data
            with tf.GradientTape() as tape:
                body = self.body(x, training=True)
                a = self.mse(number, self.one(body))
                b = self.cross_entropy(label, self.other(body))
            descend(self.optimizer, tape, [a, b], self.trainable_variables)
            return self.logs({"regression": a, "classes": b}, loss=a + b)

    model = MultiTask()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), numbers(1, seed=2), classes(3))


# The same tensor twice, for two groups of variables, is one loss.
@program("loss", outputs={"loss": (8,)}, jit=("tf_keras",))
def two_learning_rates(k, **options):
    class TwoRates(Exposing, k.Model):
        def __init__(self):
            super().__init__()
            self.body, self.head = network(k, 4, 6), network(k, 6, 1)
            self.slow, self.fast = k.optimizers.Adam(0.001), k.optimizers.SGD(0.1)
            self.huber = k.losses.Huber()

        def train_step(self, data):
            x, y = data
            with tf.GradientTape(persistent=True) as tape:
                loss = self.huber(y, self.head(self.body(x)))
            descend(self.slow, tape, loss, self.body.trainable_variables)
            descend(self.fast, tape, loss, self.head.trainable_variables)
            return self.logs({"loss": loss}, loss=loss)

    model = TwoRates()
    model.compile(**options)
    return model, batches(numbers(4), numbers(1, seed=2))


# Each half of the batch has a loss of its own; the gradients are added up. Nothing names them.
@program("loss_1", "loss_2", outputs={"loss_1": (4,), "loss_2": (4,)}, jit=("keras",))
def accumulation(k, **options):
    class Accumulating(Exposing, k.Sequential):
        def train_step(self, data):
            x, y = data
            total, losses = [tf.zeros_like(v) for v in self.trainable_variables], []
            for part in (slice(0, 4), slice(4, 8)):
                with tf.GradientTape() as tape:
                    loss = self.mse(y[part], self(x[part], training=True)) / 2
                gradients = tape.gradient(loss, self.trainable_variables)
                total = [t + g for t, g in zip(total, gradients, strict=True)]
                losses.append(loss)
            self.optimizer.apply_gradients(zip(total, self.trainable_variables, strict=True))
            logs = {"loss": tf.add_n(losses)}
            return self.logs(logs, loss_1=losses[0], loss_2=losses[1])

    model = Accumulating(network(k, 4, 8, 1).layers)
    model.build((None, 4))
    model.mse = k.losses.MeanSquaredError()
    model.compile(k.optimizers.Adam(0.01), **options)
    return model, batches(numbers(4), numbers(1, seed=2))
