"""What doctor finds: one line each, with a remedy if something is wrong."""

import dataclasses
import functools
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that doctor looked at.

    Attributes:
        level: "ok", "note" (something that not everybody needs is missing) or "problem".
        subject: What was looked at.
        found: What was found.
        remedy: What to do about it; "" if nothing.
    """

    level: Literal["ok", "note", "problem"]
    subject: str
    found: str
    remedy: str = ""


ok = functools.partial(Finding, "ok")
note = functools.partial(Finding, "note")
problem = functools.partial(Finding, "problem")
