"""Small real recordings for the tests of the command line."""

import tensorflow as tf

from tb_firstloss import FirstLoss


def record(logdir, values, *, total=None, **options):
    """Records a first batch below a logdir, without a profile, and returns its run directory."""
    first = FirstLoss(logdir, graph=False, profile=False, on_error="raise", **options)
    total = None if total is None else tf.constant(total)
    first.record(tf.constant(values), total=total)
    return first.run_dir
