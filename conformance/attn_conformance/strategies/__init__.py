"""Strategies: what each check may draw. Plain functions, keyword-only, the simplest value first."""

from attn_conformance.strategies.kernels import CAUSAL, NO_MASK, NOT_CAUSAL, ORDINARY, kernel_cases
from attn_conformance.strategies.masks import BROADCASTS, FULL, KEYWISE, PARTIAL, kinds, masks

__all__ = [
    "BROADCASTS",
    "CAUSAL",
    "FULL",
    "KEYWISE",
    "NOT_CAUSAL",
    "NO_MASK",
    "ORDINARY",
    "PARTIAL",
    "kernel_cases",
    "kinds",
    "masks",
]
