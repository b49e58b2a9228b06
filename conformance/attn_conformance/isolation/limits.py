"""Limits: how long a call may take and how much memory it may hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a target may use up.

    call: seconds for one case, that is, for a few calls and their judgement. load: for importing, and for the smallest
    calls. memory: GiB that a process may hold beyond what it holds once the target is loaded, and at least 4 while it
    is being loaded; not limited on CUDA. costs: after so much that used up time or memory the rest is not run. deaths:
    how often a row begins again to make a deadly case smaller.
    """

    call: float = 30.0
    load: float = 120.0
    memory: float = 4.0
    costs: int = 3
    deaths: int = 12
