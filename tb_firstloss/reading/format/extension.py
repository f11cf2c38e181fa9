"""The optional compiled half of reading, or None where it was not built."""

from __future__ import annotations

import contextlib
import os
from typing import Any

scan: Any = None
if not os.environ.get("TB_FIRSTLOSS_PURE_PYTHON"):  # for comparing the two
    with contextlib.suppress(ImportError):
        from tb_firstloss.reading.format import _scan as scan  # type: ignore[attr-defined,no-redef]

compiled = scan is not None
"""Whether reading runs compiled; what it returns is the same."""
