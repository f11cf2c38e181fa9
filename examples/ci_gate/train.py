"""Stands for your training script: it records its first loss, and can stop after one step.

python train.py --logdir runs/change --steps 1
"""

import argparse

import keras
from sklearn.datasets import load_digits

from tb_firstloss import FirstLossCallback

parser = argparse.ArgumentParser()
parser.add_argument("--logdir", required=True)
parser.add_argument("--steps", type=int)
options = parser.parse_args()

keras.utils.set_random_seed(0)  # so that two runs can be compared
images, labels = load_digits(return_X_y=True)
model = keras.Sequential([keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
first = FirstLossCallback(options.logdir, fingerprint=True, on_error="raise")
model.fit(
    images / 16, labels, steps_per_epoch=options.steps, callbacks=[first], verbose=0, shuffle=False
)
