"""What a fit may be given: the callback under test, or a saboteur that must be noticed."""

import keras
import numpy as np

from tb_firstloss.capture.fit import FirstLossCallback


class MovesAWeight(keras.callbacks.Callback):
    """Changes the last bit of one weight before the first batch."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            weight = self.model.trainable_weights[0]
            value = weight.numpy().copy()
            value.flat[0] = np.nextafter(value.flat[0], np.inf)
            weight.assign(value)


class StopsTraining(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


class Raises(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        raise LookupError


class DrawsANumber(keras.callbacks.Callback):
    """Takes a number from the generator that Keras's tests take their data from."""

    def on_train_end(self, logs=None):
        np.random.random()


INJECTED = {
    "values": lambda logdir: FirstLossCallback(logdir, graph=False, profile=False),
    "everything": FirstLossCallback,
    "moves a weight": lambda logdir: MovesAWeight(),
    "stops training": lambda logdir: StopsTraining(),
    "raises": lambda logdir: Raises(),
    "draws a number": lambda logdir: DrawsANumber(),
    "records nothing": lambda logdir: keras.callbacks.Callback(),
}
"""By name, what makes a callback for one fit from the test's logdir."""
