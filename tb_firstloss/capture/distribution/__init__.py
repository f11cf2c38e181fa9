"""Several threads, replicas and workers → one capture of one loss."""
