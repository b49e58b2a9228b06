"""The recipe of one example: frozen, JSON in and out, and enough to rebuild every array exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Mask:
    """How a mask is made.

    structure: who is visible, a name of `masks.STRUCTURES`. bias: the finite values added, a name of
    `masks.BIASES`. dtype: "bool", "q" (that of q) or "float32". axes: "ts", or one letter for each of
    b, h, t, s with "1" where the mask broadcasts. planes: "same" for one plane repeated over batch and
    heads, "each" for one of its own. empty_rows: whether rows without a visible key may stay.
    layout: "contiguous", or "sliced" for a view of a larger mask.
    """

    structure: str = "random"
    bias: str = "none"
    dtype: str = "bool"
    axes: str = "ts"
    planes: str = "same"
    empty_rows: bool = False
    layout: str = "contiguous"


THROUGH = {
    "qkv": "qkv_attention",
    "self": "forward, self-attention",
    "cross": "forward, cross-attention",
    "cached": "forward, the first S - T keys cached",
}
"""How a window is called where people read."""


def described_dout(dout: str, layout: str) -> tuple[str, str]:
    """An output gradient in a few words, and the plain one."""
    return dout + ("" if layout == "contiguous" else f", {layout}"), "normal"


@dataclass(frozen=True)
class KernelCase:
    """One attention problem, on heads already split, with what came before it.

    values: a name of `values.FAMILIES`. seed: of every array. poison: a name of `values.POISONS`, for the
    keys that no query of their batch element and head may see. layout: a name of `layouts.LAYOUTS`, which
    the arrays named in laid_out have. grad: "off", "on" (inputs require gradients) or "inference". fault: a
    name of `faults.FAULTS`, what is wrong with the call. before: the calls made first, on the same handle.
    dout, dout_layout: names of `upstream.FAMILIES` and `upstream.LAYOUTS`, where gradients are asked for.
    """

    batch: int = 1
    heads: int = 1
    kv_heads: int = 1
    queries: int = 1
    keys: int = 1
    head_size: int = 1
    value_size: int = 1
    dtype: str = "float32"
    values: str = "normal"
    seed: int = 0
    mask: Mask | None = None
    causal: bool = False
    scale: float | None = None
    poison: str = "none"
    layout: str = "contiguous"
    laid_out: str = "qkv"
    grad: str = "off"
    window: str = "kernel"
    fault: str = "none"
    before: tuple[KernelCase, ...] = ()
    dout: str = "normal"
    dout_layout: str = "contiguous"

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal case back."""
        return {"kind": "kernel", **asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> KernelCase:
        """The case that `to_json` wrote; ValueError for anything else."""
        fields = dict(data)
        if fields.pop("kind", None) != "kernel":
            raise ValueError(f"not a kernel case: kind is {data.get('kind')!r}")
        unknown = sorted(fields.keys() - KernelCase.__dataclass_fields__.keys())
        if unknown:
            raise ValueError(f"unknown fields in a kernel case: {unknown}")
        mask = fields.get("mask")
        fields["mask"] = None if mask is None else Mask(**mask)
        fields["before"] = tuple(
            KernelCase.from_json({"kind": "kernel", **earlier}) for earlier in fields.get("before", ())
        )
        return KernelCase(**fields)

    def describe(self) -> str:
        """One line for people: sizes in the specification's symbols, then whatever is not plain."""
        grouped = f" Hkv={self.kv_heads}" if self.kv_heads != self.heads else ""
        value_size = f" Dv={self.value_size}" if self.value_size != self.head_size else ""
        parts = [
            f"B={self.batch} H={self.heads}{grouped} T={self.queries} S={self.keys} "
            f"D={self.head_size}{value_size} {self.dtype}, {self.values} values"
        ]
        if self.mask is not None:
            bias = "" if self.mask.bias == "none" else f" with {self.mask.bias} bias"
            planes = ", a plane for each batch element and head" if self.mask.planes == "each" else ""
            parts.append(f"{self.mask.dtype} mask ({self.mask.axes}): {self.mask.structure}{bias}{planes}")
        if self.causal:
            parts.append("causal")
        if self.scale is not None:
            parts.append(f"scale={self.scale!r}")
        for label, value, plain in (
            ("poison", self.poison, "none"),
            ("layout", f"{self.layout} {', '.join(self.laid_out)}", f"contiguous {', '.join(self.laid_out)}"),
            ("grad mode", self.grad, "off"),
            ("through", THROUGH.get(self.window, ""), ""),
            ("fault", self.fault, "none"),
            ("output gradient", *described_dout(self.dout, self.dout_layout)),
        ):
            if value != plain:
                parts.append(f"{label}: {value}")
        if self.before:
            parts.append("after " + "; ".join(f"[{earlier.describe()}]" for earlier in self.before))
        return ", ".join(parts) + f", seed {self.seed}"
