"""Judges: the requirements that judge simple cases of each kind."""

from __future__ import annotations

ONE_HEAD = ("OUT-1", "OUT-2", "EQ-1", "EQ-2", "EQ-3")
"""What judges a single ordinary head, at lengths below any tile."""

SMALL = (*ONE_HEAD, "EQ-4", "EQ-5")
"""What judges ordinary numbers, at lengths below any tile."""

PLAIN = (*SMALL, "EQ-6", "NUM-1")
"""What judges ordinary numbers without mask and causality."""

STEEP = ("NUM-2", "NUM-3")
"""What judges scores that lie far apart, or far from zero."""

CACHED = ("CACHE-1", "CACHE-3")
"""What judges that the last of two steps on a cache gives what one call gives, without mask and causality."""

MASKED = ("MASK-1", "MASK-2")
"""What judges masks that hide, or that add, and are alike for all heads and batch elements."""

CAUSAL = ("CAUSAL-1", "CAUSAL-2", "CAUSAL-3", "CACHE-2")

ANY = (*PLAIN, *STEEP, *CACHED, *MASKED, "MASK-3", "MASK-5", *CAUSAL)
"""What judges a call that is in order."""

RESULTS = (*ANY, "MASK-4", "MASK-8", "OUT-3", "OUT-6", "KERN-1", "PURE-2")
"""What judges the results that gradients are asked of."""
