"""What `gpu_step0.py` trains, measures and judges, one process a part."""
