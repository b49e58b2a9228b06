"""Isolation: targets in processes of their own, which may crash, hang, exit, flood and fill the memory."""

from attn_conformance.isolation.limits import Limits
from attn_conformance.isolation.workers import Workers

__all__ = ["Limits", "Workers"]
