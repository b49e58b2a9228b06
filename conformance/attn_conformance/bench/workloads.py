"""Workloads: the shapes of work that implementations are timed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Work = Literal["forward", "backward", "decode", "masked", "padded", "cross", "cross-decode", "grouped"]
"""forward: self-attention. backward: the same with its gradients. decode: one query against S keys. masked: a floating
(T, S) mask. padded: a boolean (B, 1, 1, S) mask that hides the last quarter of each other element. cross: T queries,
S keys of another sequence. cross-decode: one query against S cached keys of another sequence. grouped: as forward, with
a key head for each four query heads."""

WORKS: tuple[Work, ...] = get_args(Work)

CACHED = ("decode", "cross-decode")
"""Works in which a module finds its keys in a cache; to a kernel they are the same."""

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Workload:
    """One shape of work: B elements, H heads of size D, Hkv key heads, T queries, S keys; of a kernel or a module.

    For modules n_state is H * D and the projections are part of the work.
    """

    work: Work
    B: int
    H: int
    T: int
    S: int
    D: int
    dtype: str
    is_causal: bool = False
    Hkv: int | None = None
    kind: Literal["kernel", "module"] = "kernel"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """A name that tells all, fit for a test id: decode-b8-h16-t1-s4096-d64-bfloat16-causal."""
        heads = f"h{self.H}" if self.Hkv in (None, self.H) else f"h{self.H}over{self.Hkv}"
        sizes = f"b{self.B}-{heads}-t{self.T}-s{self.S}-d{self.D}"
        return f"{self.work}-{sizes}-{self.dtype}{'-causal' if self.is_causal else ''}"

    @property
    def flops(self) -> float:
        """Operations of the two products (times 3.5 with gradients) and of the projections; half where causal."""
        visible = 0.5 if self.is_causal and self.T == self.S else 1.0
        pairs = 4.0 * self.B * self.H * self.T * self.S * self.D * visible
        projections = 0.0
        if self.kind == "module":
            n_state = self.H * self.D
            rows = 2 * self.T + 2 * (0 if self.work in CACHED else self.S)
            projections = 2.0 * self.B * rows * n_state**2
        if self.work == "backward":
            return pairs * 3.5 + projections * 3
        return pairs + projections

    @property
    def bytes(self) -> float:
        """What has to be read and written at least once: q, k, v, the output, and a mask; with gradients also these."""
        size, groups = BYTES[self.dtype], self.Hkv or self.H
        queries = 2 * self.B * self.H * self.T * self.D * size
        keys = 2 * self.B * groups * self.S * self.D * size
        mask = {"masked": self.T * self.S * size, "padded": self.B * self.S}.get(self.work, 0)
        return float((queries + keys) * (2 if self.work == "backward" else 1) + mask)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal workload back."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Workload:
        """The workload that `to_json` wrote; TypeError for other fields."""
        return Workload(**data)
