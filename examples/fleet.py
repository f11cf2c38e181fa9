"""Reads the first losses of many runs into a table and a plot, without TensorFlow.

python fleet.py LOGDIR writes first_losses.csv and first_losses.png
"""

import sys

import matplotlib.pyplot as plt

import tb_firstloss

logdir = sys.argv[1] if sys.argv[1:] else "runs"
found = tb_firstloss.read_first_losses(logdir)
found.to_pandas().to_csv("first_losses.csv", index=False)

figure, axes = plt.subplots(figsize=(8, 1 + 0.4 * len(found)), layout="constrained")
with_values = {run: first for run, first in found.items() if len(first.outputs) == 1}
axes.boxplot(
    [first.per_example.ravel() for first in with_values.values()],
    orientation="horizontal",
    tick_labels=list(with_values),
)
axes.set_xlabel("loss per example of the first batch")
figure.savefig("first_losses.png")
print(found)
