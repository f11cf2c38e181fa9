"""What the commands' exit codes mean; 0 is success."""

FINDING = 1
"""Nothing recorded, a damaged recording, a loss that differs, …"""

UNUSABLE = 2
"""Wrong usage, or a path that cannot be read."""

INTERRUPTED = 130
"""Ctrl-C: 128 plus the number of SIGINT."""
