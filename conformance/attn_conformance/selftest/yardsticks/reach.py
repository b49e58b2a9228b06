"""What interfaces can express: requirements, by the subject that they are about."""

from __future__ import annotations

UNMASKED = frozenset(
    {
        *("OUT-3", "OUT-4", "OUT-6", "EQ-3", "EQ-5", "EQ-6", "CAUSAL-1", "CAUSAL-2", "CAUSAL-3"),
        *("ERR-1", "ERR-2", "ERR-3", "NUM-1", "NUM-2", "NUM-3", "NUM-4", "NUM-5"),
        *("GRAD-2", "GRAD-3", "GRAD-5", "GRAD-6", "MEM-1"),
        *("PURE-1", "PURE-2", "PURE-3", "PURE-4", "PURE-5", "PURE-6"),
    }
)
"""Of a function of q, k, v and is_causal."""

MASKS = frozenset({*(f"MASK-{n}" for n in range(1, 11)), "CAUSAL-5", "GRAD-4"})
"""Of a function that takes a mask, too."""

FUNCTION = UNMASKED | MASKS
"""Of a function of q, k, v, mask and is_causal."""

STEPS = frozenset({"CACHE-2", "CACHE-3", "CACHE-8", "CACHE-9"})
"""Of cached keys that grow, and that the caller may reorder."""

FORWARD = FUNCTION | {
    *("OUT-1", "OUT-2", "EQ-1", "EQ-2", "EQ-4", "GRAD-1", "CAUSAL-4", "CTOR-1", "CTOR-2", "CTOR-4"),
}
"""Of a module without a cache."""

CACHES = frozenset({*(f"CACHE-{n}" for n in range(1, 10)), "CAUSAL-6"})
"""Of a module's cache."""
