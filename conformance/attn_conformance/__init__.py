"""attn-conformance: point it at an attention; it tells you what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn_conformance.pytest_plugin import conformance as conformance
    from attn_conformance.results import Report as Report
    from attn_conformance.runner import run as run

_HOMES = {
    "conformance": "attn_conformance.pytest_plugin",
    "run": "attn_conformance.runner",
    "Report": "attn_conformance.results",
}

__all__ = ["Report", "conformance", "run"]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
