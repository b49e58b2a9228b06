"""Sizes alone: the case of requirements about construction, where nothing else is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SizesCase:
    """Arguments of a constructor, and a dtype and seed for what follows it."""

    n_state: int = 1
    n_head: int = 1
    causal: bool = False
    dtype: str = "float32"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal case back."""
        return {"kind": "sizes", **asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SizesCase:
        """The case that `to_json` wrote."""
        return SizesCase(**{name: value for name, value in data.items() if name != "kind"})

    def describe(self) -> str:
        """One line for people."""
        return f"n_state={self.n_state} n_head={self.n_head}" + (" causal" if self.causal else "")
