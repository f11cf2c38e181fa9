"""Train a small network on real digits and show its first loss.

Examples::

  tb-firstloss demo
  tb-firstloss demo --logdir /tmp/digits --weight-seed 1
  tb-firstloss demo --keras
"""

import argparse
import math
import os
import shutil
import sys
from pathlib import Path

from tb_firstloss.cli.arguments import add_shared
from tb_firstloss.cli.commands.show import print_losses
from tb_firstloss.cli.native_log import quiet_import
from tb_firstloss.cli.progress import track
from tb_firstloss.reading.recordings import read_first_loss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--logdir", default="runs/demo", help="where the event files go (default: runs/demo)"
    )
    parser.add_argument("--data-seed", type=int, default=0, help="seed of the batch order")
    parser.add_argument("--weight-seed", type=int, default=0, help="seed of the initial weights")
    parser.add_argument(
        "--loss",
        choices=("cross-entropy", "squared-error"),
        default="cross-entropy",
        help="loss function (default: cross-entropy)",
    )
    parser.add_argument(
        "--keras", action="store_true", help="train with model.fit instead of a custom loop"
    )
    add_shared(parser, "--quiet")


def run(options: argparse.Namespace) -> int:
    """Trains, then prints the first loss as it was read back from the event file."""
    if not options.quiet:
        print("Loading TensorFlow …", file=sys.stderr)
    with quiet_import():
        from tb_firstloss import demo  # TensorFlow

        demo.start_devices()
    run_dir, accuracy = demo.train(
        options.logdir,
        data_seed=options.data_seed,
        weight_seed=options.weight_seed,
        loss=options.loss,
        with_fit=options.keras,
        track=lambda batches, count: track(batches, "Training", count, quiet=options.quiet),
    )
    first = read_first_loss(run_dir)
    print_losses([first])
    print(f"\nThe first loss is {first.mean:.4f}; {_meaning(first.mean, options.loss)}")
    print(f"Accuracy after one epoch: {accuracy:.1%} on {demo.TEST_COUNT} test images")
    print(f"Event file and profile: {_short(run_dir)}")
    tensorboard = shutil.which("tensorboard", path=Path(sys.executable).parent) or "tensorboard"
    print(f"In TensorBoard: {_short(tensorboard)} --logdir {options.logdir}")
    return 0


def _meaning(mean: float, loss: str) -> str:
    if loss != "cross-entropy":
        return "no initial value is known for this loss"
    known = f"ln 10 is {math.log(10):.4f}"
    if abs(mean / math.log(10) - 1) < 0.1:
        return f"{known}: an untrained network that finds the ten digits equally likely"
    return f"{known}: further from it than an untrained network should be"


def _short(path: str) -> str:
    """Returns a path relative to the working directory if it is below it."""
    here = f"{Path.cwd()}{os.sep}"
    return path.removeprefix(here)
