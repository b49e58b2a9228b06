"""Scripts: what is done to caches, step by step, by modules that may share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ACTS = ("self", "cross", "rejected", "misfit", "reorder", "truncate", "fork", "disturb", "plain")
"""self, cross: a call of forward with a cache. rejected: a call with a fault in it. misfit: a call of another batch
size than the entry's. reorder, truncate: the caller edits the entries. fork: a shallow copy becomes the next cache.
disturb: the caller overwrites the arrays of its last call. plain: a call without a cache."""


@dataclass(frozen=True)
class Step:
    """One thing that is done. cache, module: numbers of those concerned. length: tokens of x, or what truncate keeps.

    order: batch elements that reorder puts in place of the old ones, repetitions allowed. masked: whether a random
    boolean mask is given, over cached and new keys, or those of the cross entry. fault: a name of `faults.FAULTS`, or
    "mask" for a mask that causality forbids.
    """

    act: str = "self"
    cache: int = 0
    module: int = 0
    length: int = 1
    order: tuple[int, ...] = ()
    masked: bool = False
    fault: str = "none"

    def describe(self) -> str:
        """In a few words: what, with how many tokens, by which module on which cache where there are several."""
        by = (f" by module {self.module}" if self.module else "") + (
            f" on cache {self.cache}" if self.cache else ""
        )
        what = {
            "self": f"self {self.length}",
            "cross": f"cross {self.length}",
            "plain": f"without cache {self.length}",
            "rejected": f"rejected ({self.fault})",
            "misfit": "another batch size",
            "reorder": f"reorder {list(self.order)}",
            "truncate": f"keep {self.length}",
            "fork": "fork",
            "disturb": "overwrite the last input",
        }[self.act]
        return what + (" masked" if self.masked else "") + by


@dataclass(frozen=True)
class ScriptCase:
    """Steps on caches that start empty. keys: length of every xa.

    carried: whether weights carry q, k and v exactly, or are random. copied: whether module 1 is a deepcopy of
    module 0, with other weights loaded afterwards.
    """

    batch: int = 1
    heads: int = 1
    head_size: int = 1
    dtype: str = "float32"
    causal: bool = False
    keys: int = 1
    carried: bool = True
    copied: bool = False
    steps: tuple[Step, ...] = ()
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal case back."""
        return {"kind": "script", **asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ScriptCase:
        """The case that `to_json` wrote."""
        fields = {name: value for name, value in data.items() if name != "kind"}
        fields["steps"] = tuple(
            Step(**{**step, "order": tuple(step.get("order", ()))}) for step in fields.get("steps", ())
        )
        return ScriptCase(**fields)

    def describe(self) -> str:
        """One line for people: sizes, then the steps."""
        sizes = f"B={self.batch} H={self.heads} D={self.head_size} {self.dtype}"
        xa = f" xa of {self.keys}" if any(step.act == "cross" for step in self.steps) else ""
        kind = ("causal, " if self.causal else "") + ("" if self.carried else "random weights, ")
        copied = "module 1 a deepcopy, " if self.copied else ""
        return f"{sizes}{xa}, {kind}{copied}steps: {' | '.join(s.describe() for s in self.steps)}, seed {self.seed}"
