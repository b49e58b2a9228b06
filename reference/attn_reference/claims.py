"""What an implementation says of itself: the frozen record that decides what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

DTYPES = ("float64", "float32", "float16", "bfloat16")

Arithmetic = Literal["precise", "fused", "eager", "tf32"]

FEATURES: dict[str, str] = {
    "bool-mask": "boolean masks, True = may attend",
    "float-mask": "floating masks in the dtype of q, added to the scaled scores",
    "float32-mask": "float32 masks beside q of a lower dtype",
    "causal": "is_causal",
    "cross": "query and key lengths that differ",
    "gradients": "gradients of every floating input",
    "zero-sizes": "empty batches, queries or keys",
    "linear-memory": "no T x S buffer is held where there is no mask",
    "validates": "a wrong argument raises before any work is done",
    "gqa": "grouped heads: H = g * Hkv, consecutive groups",
    "scale": "an explicit scale in place of 1/sqrt(D)",
    "dv": "values of another head size than queries and keys",
    "lse": "the log-sum-exp of each row is returned",
    "qkv": "qkv_attention, what lies between the projections, on heads that are not split",
    "cache": "keys and values kept between calls",
    "shared-cache": "one cache serves several modules",
    "cache-edits": "cached entries that the caller reorders, repeats, truncates or forks",
    "casts-weights": "weights held in another dtype than that of x",
    "drop-in": "a class with the interface of the seed: its constructor, attributes and parameter names",
    "constructor": "sizes are given to a constructor, which can refuse them",
    "torch-module": "modules that are torch.nn.Modules, called as such",
    "batch-invariance": "an element's result is bitwise the same in any batch",
    "run-determinism": "a repeated call gives bitwise the same result",
}

MASK_FEATURES = frozenset({"bool-mask", "float-mask", "float32-mask"})
"""Any of these lets a requirement be exercised that is about masks of either kind."""

PLAIN_FEATURES = frozenset(
    {
        *("bool-mask", "float-mask", "float32-mask", "causal", "cross", "gradients", "zero-sizes"),
        "linear-memory",
    }
)

MODULE_FEATURES = PLAIN_FEATURES | {
    *("qkv", "cache", "shared-cache", "cache-edits", "casts-weights", "drop-in", "constructor"),
}
"""What the interface of the seed can express."""


@dataclass(frozen=True)
class Claims:
    """dtypes and devices by name; features: keys of FEATURES; arithmetic: the roundings that are allowed.

    head_sizes: the only head sizes served, or () for any.
    """

    dtypes: tuple[str, ...] = DTYPES
    devices: tuple[str, ...] = ("cpu",)
    features: frozenset[str] = PLAIN_FEATURES
    arithmetic: Arithmetic = "fused"
    head_sizes: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The claims as plain data, features in alphabetical order."""
        return {
            "dtypes": list(self.dtypes),
            "devices": list(self.devices),
            "features": sorted(self.features),
            "arithmetic": self.arithmetic,
            "head_sizes": list(self.head_sizes),
        }

    def __post_init__(self) -> None:
        unknown = sorted(self.features - FEATURES.keys())
        if unknown:
            raise ValueError(f"unknown features {unknown}; known are {sorted(FEATURES)}")
        bad = sorted(set(self.dtypes) - set(DTYPES))
        if bad or not self.dtypes:
            raise ValueError(f"dtypes must be some of {DTYPES}, not {self.dtypes}")
        if self.arithmetic not in get_args(Arithmetic):
            raise ValueError(f"arithmetic must be one of {get_args(Arithmetic)}, not {self.arithmetic!r}")
