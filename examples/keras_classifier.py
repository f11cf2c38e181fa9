"""Trains a classifier with model.fit and records its first loss.

python keras_classifier.py; tb-firstloss show runs
"""

import keras
from sklearn.datasets import load_digits

from tb_firstloss import FirstLossCallback

keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)
model = keras.Sequential(
    [
        keras.layers.Rescaling(1 / 16),
        keras.layers.Dense(64, activation="relu", kernel_regularizer="l2"),
        keras.layers.Dense(10),
    ]
)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

first = FirstLossCallback(
    "runs/classifier",
    expect="auto",  # ln 10: an untrained network finds the ten digits equally likely
    hparams={"optimizer": "adam", "l2": 0.01},
    fingerprint=True,
)
model.fit(images, labels, epochs=2, callbacks=[first], verbose=0)

print(f"loss {first.first_batch.loss:.4f}, regulariser included")
print(f"mean cross-entropy {first.first_batch.mean:.4f} of {first.first_batch.count} examples")
