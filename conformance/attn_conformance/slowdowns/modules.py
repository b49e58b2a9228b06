"""Slow modules: what they keep between calls, and do again at each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from attn_conformance.bench.workloads import Workload
from attn_conformance.slowdowns import DTYPES, Slowdown, register
from attn_conformance.slowdowns.kernels import attend
from attn_reference.claims import Claims

CLAIMS = Claims(dtypes=DTYPES, devices=("cpu", "cuda"), features=frozenset({"causal", "cross", "cache"}))

ROOM = 1.25
"""Rows that a new buffer has, in multiples of those that it is made for."""

DECODE = Workload("decode", 1, 2, 1, 1024, 32, "float32", is_causal=True, kind="module")
"""Small enough for the caches of one core: what comes from memory is timed by the neighbours, too."""

CROSS = replace(DECODE, work="cross-decode", is_causal=False)
CUDA_DECODE = Workload("decode", 32, 16, 1, 2048, 64, "bfloat16", True, kind="module", device="cuda")
CUDA_CROSS = replace(CUDA_DECODE, work="cross-decode", is_causal=False)

Pair = tuple[Tensor, Tensor]
"""Keys and values, each (B, H, S, D)."""


@dataclass(frozen=True, eq=False)
class Handle:
    """A module: its parameters by the names of CTOR-4, its heads, and whether it is causal."""

    params: Mapping[str, Tensor]
    n_head: int
    causal: bool

    def project(self, part: str, x: Tensor) -> Tensor:
        """(B, T, n_state) to (B, T, n_state)."""
        return linear(x, self.params[f"{part}.weight"], self.params.get(f"{part}.bias"))

    def heads(self, part: str, x: Tensor) -> Tensor:
        """(B, T, n_state) to (B, H, T, D), a view of the projection."""
        B, T, n_state = x.shape
        return self.project(part, x).view(B, T, self.n_head, n_state // self.n_head).transpose(1, 2)

    def pair(self, source: Tensor) -> Pair:
        """Keys and values of x or xa."""
        return self.heads("key", source), self.heads("value", source)

    def attend(self, x: Tensor, pair: Pair, mask: Tensor | None) -> Tensor:
        """The queries of x on keys and values, and the last projection."""
        out = attend(self.heads("query", x), *pair, mask, self.causal)
        return self.project("out", out.transpose(1, 2).flatten(2))


class Buffer:
    """Rows that are appended in place, along an axis; with room to spare, so that they are seldom moved."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.rows: Tensor | None = None
        self.filled = 0

    def appended(self, new: Tensor) -> Tensor:
        """All rows, the new ones last: a view."""
        total = self.filled + new.shape[self.axis]
        if self.rows is None or total > self.rows.shape[self.axis]:
            shape = list(new.shape)
            shape[self.axis] = int(total * ROOM) + 1
            larger = new.new_empty(shape)
            if self.rows is not None:
                larger.narrow(self.axis, 0, self.filled).copy_(self.rows.narrow(self.axis, 0, self.filled))
            self.rows = larger
        self.rows.narrow(self.axis, self.filled, new.shape[self.axis]).copy_(new)
        self.filled = total
        return self.rows.narrow(self.axis, 0, total)


class Session:
    """A cache of one module: of its keys and values, which are written once."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.keys, self.values = Buffer(2), Buffer(2)
        self.crossing: Pair | None = None

    @property
    def cache(self) -> Any:
        """The session itself: no other module shares it."""
        return self

    def step(self, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """One call of the module that continues the cache."""
        pair = self.grown(x) if xa is None else self.crossed(xa)
        return self.handle.attend(x, pair, mask)

    def grown(self, x: Tensor) -> Pair:
        """Keys and values of all tokens so far, x being the last."""
        k, v = self.handle.pair(x)
        return self.keys.appended(k), self.values.appended(v)

    def crossed(self, xa: Tensor) -> Pair:
        """Keys and values of xa, projected at the first call."""
        if self.crossing is None:
            self.crossing = self.handle.pair(xa)
        return self.crossing


class Copied(Session):
    """The cache is copied at each step."""

    def grown(self, x: Tensor) -> Pair:
        """A new array for each step, as `torch.cat` makes it."""
        new = self.handle.pair(x)
        if self.crossing is not None:
            new = torch.cat([self.crossing[0], new[0]], 2), torch.cat([self.crossing[1], new[1]], 2)
        self.crossing = new
        return new


class ProjectedAgain(Session):
    """The cache holds tokens, of which keys and values are projected anew at each step."""

    def __init__(self, handle: Handle) -> None:
        super().__init__(handle)
        self.tokens = Buffer(1)

    def grown(self, x: Tensor) -> Pair:
        """The projections of all tokens."""
        return self.handle.pair(self.tokens.appended(x))


class CrossProjectedAgain(Session):
    """The keys and values of the other sequence are projected anew at each step, though they are cached."""

    def crossed(self, xa: Tensor) -> Pair:
        """The projections of xa, each time."""
        self.crossing = self.handle.pair(xa)
        return self.crossing


class Module:
    """The Implementation whose caches are sessions of one kind."""

    claims = CLAIMS
    border = "torch"

    def __init__(self, session: type[Session]) -> None:
        self.session = session
        self.__doc__ = session.__doc__

    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Tensor]) -> Handle:
        """A module with these parameters."""
        return Handle(dict(params), n_head, causal)

    def forward(
        self, handle: Handle, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """One call without a cache."""
        return handle.attend(x, handle.pair(x if xa is None else xa), mask)

    def open(self, handle: Handle, cache: Any = None) -> Session:
        """An empty cache."""
        return self.session(handle)


RIGHT = Module(Session)

for _name, _session, _cpu, _cuda in (
    ("cache-copied", Copied, DECODE, CUDA_DECODE),
    ("tokens-projected-again", ProjectedAgain, DECODE, CUDA_DECODE),
    ("cross-cache-projected-again", CrossProjectedAgain, CROSS, CUDA_CROSS),
):
    register(Slowdown(_name, Module(_session), RIGHT, CLAIMS, {"cpu": _cpu, "cuda": _cuda}))
