"""What doctor finds: one line each, with a remedy where something is not as it should be."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that doctor looked at.

    Attributes:
        level: "ok", "note" (something is missing that not everybody needs) or "problem".
        subject: What was looked at.
        found: What was found.
        remedy: What to do about it; "" when there is nothing to do.
    """

    level: Literal["ok", "note", "problem"]
    subject: str
    found: str
    remedy: str = ""


def ok(subject: str, found: str) -> Finding:
    """Returns a finding that all is well."""
    return Finding("ok", subject, found)


def note(subject: str, found: str, remedy: str) -> Finding:
    """Returns a finding that not everybody needs to act on."""
    return Finding("note", subject, found, remedy)


def problem(subject: str, found: str, remedy: str) -> Finding:
    """Returns a finding that keeps something from working."""
    return Finding("problem", subject, found, remedy)
