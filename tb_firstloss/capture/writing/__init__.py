"""A first batch → one event file, through tf.summary, durable and verified."""
