"""PLACEHOLDER."""

from typing import Any

from attn_conformance.stored import Stored


class Shelf:
    """x."""

    def cases(self, requirement: str) -> tuple[Stored, ...]:
        """X."""
        return ()

    def add(self, requirement: str, stored: Stored, message: str) -> None:
        """X."""

    def forget(self, requirement: str, stored: Stored) -> None:
        """X."""


class Database:
    """x."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def shelf(self, target: str, device: str, claims: dict[str, Any]) -> Shelf:
        """X."""
        return Shelf()
