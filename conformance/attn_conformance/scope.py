"""The scope: what the strategies may draw for a subject."""

from __future__ import annotations

from dataclasses import dataclass

from attn_reference import Claims

WINDOWS = ("kernel", "qkv", "self", "cross", "cached")
"""Ways to put an attention problem to a subject.

kernel: a function on split heads. The others see the attention inside a module: qkv through qkv_attention, self and
cross through forward, cached through the last of two steps on one cache.
"""

OPENED_BY = {"qkv": "qkv", "cross": "cross", "cached": "cache"}
"""The feature without which a module lacks a window."""


@dataclass(frozen=True)
class Scope:
    """What the strategies may draw: a subject's claims, the layouts and grad modes of its framework, its windows."""

    claims: Claims
    layouts: tuple[str, ...] = ("contiguous",)
    grad_modes: tuple[str, ...] = ("off",)
    windows: tuple[str, ...] = ("kernel",)

    def has(self, feature: str) -> bool:
        """Whether a feature is claimed."""
        return feature in self.claims.features
