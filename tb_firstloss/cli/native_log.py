"""Keeps TensorFlow's native log off the terminal of a command that trains.

Only the command line does this: a library must not touch the log or stderr of its process.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_IMPORT = re.compile(
    rb"^I\d{4} |^\d{4}-\d\d-\d\d .*: I |^To enable the following instructions"
    rb"|All log messages before absl::InitializeLog|failed call to cuInit: .*\(303\)"
)
"""Lines of level INFO from importing TensorFlow, and the one about a missing GPU driver."""


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Keeps TensorFlow, imported in this block, from logging INFO lines then and later.

    Whoever has set TF_CPP_MIN_LOG_LEVEL gets what that says once TensorFlow is imported. Inside,
    what is written to the process's stderr is held, and passed on without those lines: native code
    writes to the descriptor, past sys.stderr, so the descriptor itself is redirected. Where that
    cannot be done (it is closed, no temporary file), nothing is held back.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # TensorFlow reads it once
    with contextlib.ExitStack() as stack:
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
                if not _IMPORT.search(line):
                    os.write(2, line)
