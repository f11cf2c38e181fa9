"""Several replicas and several workers → one loss."""
