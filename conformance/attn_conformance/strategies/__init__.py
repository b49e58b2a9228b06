"""Strategies: what each check may draw. Plain functions, keyword-only, the simplest value first."""

from attn_conformance.strategies.kernels import (
    CAUSAL,
    LONG_AND_CHEAP,
    NO_MASK,
    NOT_CAUSAL,
    ORDINARY,
    counted_keys,
    direct,
    kernel_cases,
    only,
)
from attn_conformance.strategies.masks import (
    APART,
    BROADCASTS,
    CONTIGUOUS,
    FULL,
    KEYWISE,
    PARTIAL,
    floating_kinds,
    kinds,
    masks,
)
from attn_conformance.strategies.modules import constructor_arguments, faulty, forward_cases
from attn_conformance.strategies.scripts import appended, chunks, crossed, decoded, scripts
from attn_conformance.strategies.upstream import with_dout
from attn_conformance.strategies.weights import weighted

__all__ = [
    "APART",
    "BROADCASTS",
    "CAUSAL",
    "CONTIGUOUS",
    "FULL",
    "KEYWISE",
    "LONG_AND_CHEAP",
    "NOT_CAUSAL",
    "NO_MASK",
    "ORDINARY",
    "PARTIAL",
    "appended",
    "chunks",
    "constructor_arguments",
    "counted_keys",
    "crossed",
    "decoded",
    "direct",
    "faulty",
    "floating_kinds",
    "forward_cases",
    "kernel_cases",
    "kinds",
    "masks",
    "only",
    "scripts",
    "weighted",
    "with_dout",
]
