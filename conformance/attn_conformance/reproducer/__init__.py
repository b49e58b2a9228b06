"""PLACEHOLDER."""

from typing import Any


def execute_in_subprocess(script: str, arguments: Any, seconds: float) -> int:
    """X."""
    raise NotImplementedError
