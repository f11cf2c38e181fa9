"""What the profiler wrote, in numbers."""
