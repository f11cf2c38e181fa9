"""Train a small network on real digits and show its first loss.

Examples::

  tb-firstloss demo
  tb-firstloss demo --logdir /tmp/digits --weight-seed 1
  tb-firstloss demo --keras
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tb_firstloss.cli.arguments import add_quiet
from tb_firstloss.cli.native_log import quiet_import
from tb_firstloss.cli.progress import track


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
        "--keras", action="store_true", help="train with model.fit instead of a loop by hand"
    )
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    """Trains, then prints the first loss as it was read back from the event file."""
    from tb_firstloss.cli.commands.show import print_losses

    if not options.quiet:
        print("Loading TensorFlow …", file=sys.stderr)
    with quiet_import():
        from tb_firstloss import demo

        demo.start_devices()
    choices = {
        "data_seed": options.data_seed,
        "weight_seed": options.weight_seed,
        "loss": options.loss,
    }
    if options.keras:
        outcome = demo.train_with_fit(options.logdir, **choices)
    else:
        outcome = demo.train(
            options.logdir,
            **choices,
            track=lambda batches, count: track(batches, "Training", count, quiet=options.quiet),
        )
    from tb_firstloss.reading.recordings import read_first_loss

    first = read_first_loss(outcome.run_dir)
    print_losses([first])
    if options.loss == "cross-entropy":
        known = f"ln 10 is {demo.LN_10:.4f}: {_reading(first.mean)}"
    else:
        known = "nothing says what it should be"
    print(f"\nThe first loss is {first.mean:.4f}; {known}")
    print(f"Accuracy after one epoch: {outcome.accuracy:.1%} on {outcome.test_count} test images")
    print(f"Event file and profile: {_short(outcome.run_dir)}")
    print(f"In TensorBoard: {_short(_tensorboard())} --logdir {options.logdir}")
    return 0


def _tensorboard() -> str:
    """Returns the tensorboard command that belongs to this Python."""
    beside = Path(sys.executable).with_name("tensorboard")
    return str(beside) if beside.exists() else "tensorboard"


def _short(path: str) -> str:
    """Returns a path relative to the working directory where it lies below it."""
    here = f"{Path.cwd()}{os.sep}"
    return path.removeprefix(here)


def _reading(mean: float) -> str:
    from tb_firstloss.demo import LN_10

    if abs(mean / LN_10 - 1) < 0.1:
        return "an untrained network that finds the ten digits equally likely"
    return "further from it than an untrained network should be"
