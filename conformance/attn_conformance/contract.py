"""The contract of adapters: what one lacks, told before anything is asked of it."""

from __future__ import annotations

from typing import Any

from attn_conformance.borders import BORDERS
from attn_reference import Claims

MEMBERS = ("claims", "border", "build", "forward")
"""What every adapter has."""

METHODS = {"cache": "open", "shared-cache": "open", "cache-edits": "open", "qkv": "attention"}
"""Features, and the methods through which they are asked for."""

EDITS = ("reorder", "truncate", "fork")
"""What a session has where cache-edits are claimed."""


def is_adapter(found: Any) -> bool:
    """Whether an object is meant as an adapter: no class of attention has both methods."""
    return callable(getattr(found, "build", None)) and callable(getattr(found, "forward", None))


def lacking(adapter: Any) -> str | None:
    """What is wrong with an adapter's members, None if nothing."""
    absent = [name for name in MEMBERS if not hasattr(adapter, name)]
    if absent:
        return f"is an object with build and forward, but lacks {' and '.join(absent)}"
    if not isinstance(adapter.claims, Claims):
        kind = type(adapter.claims).__name__
        return f"has claims of type {kind}; write claims = Claims(features=frozenset({{...}})), from attn_reference"
    border = adapter.border
    if border not in BORDERS if isinstance(border, str) else not hasattr(border, "asarray"):
        return f"has border = {border!r}; it is one of {', '.join(map(repr, BORDERS))}"
    return None


def unfulfilled(adapter: Any, claims: Claims) -> str | None:
    """A claim that an adapter has no method for, None if there is none."""
    for feature, method in METHODS.items():
        if feature in claims.features and not callable(getattr(adapter, method, None)):
            return f"claims {feature}, but has no {method}"
    return None


def without_edits(session: Any) -> str | None:
    """What a session lacks, None if nothing, where cache-edits are claimed."""
    absent = [name for name in EDITS if not callable(getattr(session, name, None))]
    return f"claims cache-edits, but its sessions have no {' and no '.join(absent)}" if absent else None
