"""What doctor finds: one line each, with a remedy if something is wrong."""

from __future__ import annotations

import dataclasses
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


def ok(subject: str, found: str) -> Finding:
    """Returns a finding that needs no action."""
    return Finding("ok", subject, found)


def note(subject: str, found: str, remedy: str) -> Finding:
    """Returns a finding that only some users need to act on."""
    return Finding("note", subject, found, remedy)


def problem(subject: str, found: str, remedy: str) -> Finding:
    """Returns a finding that keeps something from working."""
    return Finding("problem", subject, found, remedy)
