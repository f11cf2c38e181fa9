"""The optional compiled parts of reading, each None where it is not installed."""

import contextlib
import os
import warnings
from typing import Any

scan: Any = None
google_crc32c: Any = None
_pure = bool(os.environ.get("TB_FIRSTLOSS_PURE_PYTHON"))  # for comparing with the reference

if not _pure:
    with contextlib.suppress(ImportError):
        from tb_firstloss.reading.format import _scan as scan  # type: ignore[attr-defined,no-redef]

compiled = scan is not None
"""Whether reading runs compiled; its results are the same either way."""

if not (_pure or compiled):
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # raised where it is pure Python itself
        import google_crc32c  # type: ignore[no-redef]

        if google_crc32c.implementation != "c":
            google_crc32c = None
