"""Writes the golden files: one folder per writer, with the writer's version as JSON.

    python generate.py pytorch       # needs torch and tensorboard, no TensorFlow
    python generate.py tensorboardx  # needs tensorboardX
    python generate.py tf1           # needs tensorflow
    python generate.py clu           # needs clu (JAX's writer), tensorflow

Each writer runs in a separate environment, because some cannot share one. The JSON names the
versions that wrote the committed files, which are small and rewritten only when a writer changes;
the tests read what is here.
"""

import json
import math
import shutil
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SCALARS = [0.1, -2.5, math.nan, math.inf, 3.0e38]
VALUES = np.linspace(-1, 2, 50)
IMAGE = (np.arange(4 * 5 * 3) * 4 % 255).astype(np.uint8).reshape(4, 5, 3)
SOUND = np.sin(np.arange(64) / 5).astype(np.float32)


def summary_writer(folder, writer_class):
    """What PyTorch's SummaryWriter and tensorboardX share."""
    with writer_class(str(folder)) as writer:
        for step, value in enumerate(SCALARS):
            writer.add_scalar("loss", value, step)
        writer.add_scalar("valid/größe", 1.5, 7)
        writer.add_histogram("weights", VALUES, 2)
        writer.add_image("picture", IMAGE, 3, dataformats="HWC")
        writer.add_text("note", "first **batch**", 4)
        writer.add_hparams({"lr": 0.1, "optimizer": "sgd"}, {"hparam/loss": 0.5})


def pytorch(folder):
    from torch.utils.tensorboard import SummaryWriter

    summary_writer(folder, SummaryWriter)
    with SummaryWriter(str(folder / "new_style")) as writer:
        writer.add_scalar("loss", 0.1, 0, new_style=True)
        writer.add_scalar("double", 0.1, 0, new_style=True, double_precision=True)
        writer.add_tensor("tensor", __import__("torch").arange(6.0).reshape(2, 3), 5)
    return "torch"


def tensorboardx(folder):
    from tensorboardX import SummaryWriter

    summary_writer(folder, SummaryWriter)
    return "tensorboardX"


def tf1(folder):
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        scalar, many = v1.placeholder(tf.float32, []), v1.placeholder(tf.float64, [None])
        merged = v1.summary.merge([v1.summary.scalar("loss", scalar)])
        kinds = v1.summary.merge(
            [
                v1.summary.histogram("weights", many),
                v1.summary.image("picture", tf.constant(IMAGE[None])),
                v1.summary.audio("sound", tf.constant(SOUND[None, :, None]), 8000),
                v1.summary.text("note", tf.constant("first **batch**")),
                v1.summary.tensor_summary("tensor", tf.constant([[1, 2], [3, 4]], tf.int64)),
            ]
        )
        writer = v1.summary.FileWriter(str(folder), session.graph)
        for step, value in enumerate(SCALARS):
            writer.add_summary(session.run(merged, {scalar: value}), step)
        writer.add_summary(session.run(kinds, {many: VALUES}), 3)
        writer.add_session_log(v1.SessionLog(status=v1.SessionLog.START), 0)
        writer.add_run_metadata(v1.RunMetadata(), "trace", 1)
        writer.close()
    return "tensorflow"


def clu(folder):
    from clu import metric_writers

    writer = metric_writers.SummaryWriter(str(folder))
    for step, value in enumerate(SCALARS):
        writer.write_scalars(step, {"loss": np.float32(value)})
    writer.write_histograms(2, {"weights": VALUES}, num_buckets={"weights": 5})
    writer.write_texts(4, {"note": "first **batch**"})
    writer.flush()
    return "clu"


def main():
    name = sys.argv[1]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    package = globals()[name](folder)
    facts = {"writer": f"{package} {metadata.version(package)}", "python": sys.version.split()[0]}
    (folder / "writer.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
