"""Keeps TensorFlow's native log lines off the terminal where they only repeat what we do."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

PROFILER = re.compile(
    rb"(^I\d{4} |^\d{4}-\d\d-\d\d .*: I )"
    rb".*(profiler_session|save_profile|cupti_\w+|device_tracer_\w+|rocm_\w+)\.cc:"
)
"""What starting and stopping the profiler says at level INFO (TensorFlow 2.16 to 2.21)."""

IMPORT = re.compile(
    rb"^I\d{4} |^\d{4}-\d\d-\d\d .*: I |^To enable the following instructions"
    rb"|All log messages before absl::InitializeLog|failed call to cuInit: .*\(303\)"
)
"""What importing TensorFlow says at level INFO, and that a machine has no GPU driver."""

# Two threads that redirect the one descriptor would each take the other's file for the original.
_descriptor = threading.RLock()


@contextlib.contextmanager
def leave_out(lines: re.Pattern[bytes]) -> Iterator[None]:
    """Holds what is written to the process's stderr, then passes on all lines but these.

    Native code writes to the descriptor, past sys.stderr, so the descriptor itself is redirected.
    Where that cannot be done (it is closed, no temporary file), nothing is held back.
    """
    with _descriptor, contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            original = os.dup(2)
        except OSError:
            yield
            return
        with contextlib.suppress(Exception):  # a replaced sys.stderr may have no flush
            sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            held.seek(0)
            for line in held:
                if not lines.search(line):
                    os.write(2, line)
