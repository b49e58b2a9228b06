"""Plain data: what JSON can hold, and nothing that only Python reads."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any


def plain(data: Any) -> Any:
    """The same as JSON has it: lists for tuples, None for numbers that are none or infinite, texts for the unknown."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, float):
        return data if isfinite(data) else None
    return data if isinstance(data, str | int | None) else str(data)
