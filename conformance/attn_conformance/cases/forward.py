"""Forward calls of a module with random weights: the projections and their biases count too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import masks
from attn_conformance.cases.case import Mask, described_dout
from attn_conformance.cases.values import STORAGE

Array = NDArray[Any]

PROJECTIONS = ("query", "key", "value", "out")


@dataclass(frozen=True)
class ForwardCase:
    """One call of forward. keys: length of xa, or None for self-attention.

    weights_dtype: that of the parameters, or None for x's. zeros: whether some tokens of x and xa are zero throughout.
    gain: standard deviation of projected queries and keys.
    change: what is done to the module or the call, named by the check that draws it. dout, dout_layout: as of a
    KernelCase.
    """

    batch: int = 1
    heads: int = 1
    head_size: int = 1
    queries: int = 1
    keys: int | None = None
    dtype: str = "float32"
    weights_dtype: str | None = None
    zeros: bool = False
    gain: float = 1.0
    mask: Mask | None = None
    causal: bool = False
    change: str = "none"
    seed: int = 0
    dout: str = "normal"
    dout_layout: str = "contiguous"

    @property
    def n_state(self) -> int:
        """Size of the last axis of x."""
        return self.heads * self.head_size

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal case back."""
        return {"kind": "forward", **asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ForwardCase:
        """The case that `to_json` wrote."""
        fields = {name: value for name, value in data.items() if name != "kind"}
        if fields.get("mask") is not None:
            fields["mask"] = Mask(**fields["mask"])
        return ForwardCase(**fields)

    def describe(self) -> str:
        """One line for people: sizes in the specification's symbols, then whatever is not plain."""
        length = f"T={self.queries}" + ("" if self.keys is None else f" S={self.keys}")
        parts = [f"forward, {'self' if self.keys is None else 'cross'}-attention"]
        parts += [f"B={self.batch} n_state={self.n_state} n_head={self.heads} {length} {self.dtype}"]
        if self.weights_dtype not in (None, self.dtype):
            parts.append(f"{self.weights_dtype} weights")
        if self.mask is not None:
            parts.append(f"{self.mask.dtype} mask ({self.mask.axes}): {self.mask.structure}")
        if self.causal:
            parts.append("causal")
        if self.zeros:
            parts.append("some tokens zero")
        if self.change != "none":
            parts.append(self.change)
        upstream, plain = described_dout(self.dout, self.dout_layout)
        if upstream != plain:
            parts.append(f"output gradient: {upstream}")
        return ", ".join(parts) + f", seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Forward:
    """A call as arrays in the storage dtype: x (B, T, n_state), xa (B, S, n_state) or None, mask, parameters."""

    x: Array
    xa: Array | None
    params: dict[str, Array]
    n_head: int
    mask: Array | None = None
    is_causal: bool = False

    @property
    def dtype(self) -> str:
        """Name of x's dtype."""
        return str(self.x.dtype.name)

    @property
    def cast(self) -> dict[str, Array]:
        """The parameters as a call computes with them: in x's dtype."""
        return {name: array.astype(self.x.dtype) for name, array in self.params.items()}

    def arrays(self) -> dict[str, Array]:
        """The array arguments by name, those left out that are None."""
        named = {"x": self.x, "xa": self.xa, "mask": self.mask}
        return {name: array for name, array in named.items() if array is not None}


def draw_params(rng: np.random.Generator, n_state: int, dtype: str, gain: float = 1.0) -> dict[str, Array]:
    """Random parameters by the names of CTOR-4, and a key.bias for the modules that have one."""
    params: dict[str, Array] = {}
    for name in PROJECTIONS:
        size = np.sqrt(gain if name in ("query", "key") else 1.0) / np.sqrt(max(n_state, 1))
        params[f"{name}.weight"] = (rng.standard_normal((n_state, n_state)) * size).astype(STORAGE[dtype])
        params[f"{name}.bias"] = rng.standard_normal(n_state).astype(STORAGE[dtype])
    return params


def build_forward(case: ForwardCase) -> Forward:
    """The call of a case."""
    rng = np.random.default_rng((case.seed, 1))
    kind = STORAGE[case.dtype]
    x = rng.standard_normal((case.batch, case.queries, case.n_state)).astype(kind)
    xa = None
    if case.keys is not None:
        xa = rng.standard_normal((case.batch, case.keys, case.n_state)).astype(kind)
    if case.zeros:
        for tokens in (x, xa):
            if tokens is not None:
                tokens[:, rng.random(tokens.shape[1]) < 0.4] = 0
    mask = None
    if case.mask is not None:
        keys = case.queries if case.keys is None else case.keys
        mask = masks.make(
            np.random.default_rng((case.seed, 2)),
            case.mask,
            case.batch,
            case.heads,
            case.queries,
            keys,
            x.dtype,
        )
    params = draw_params(
        np.random.default_rng((case.seed, 3)), case.n_state, case.weights_dtype or case.dtype, case.gain
    )
    return Forward(x, xa, params, case.heads, mask, case.causal)
