"""A kernel under judgement: a function on split heads, called as its convention says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from attn_conformance.borders import Border, Natives
from attn_conformance.cases import Call, Upstream, upstream
from attn_conformance.conventions import Convention
from attn_conformance.differentiated import Differentiated
from attn_conformance.faults import put
from attn_conformance.judge import Failed
from attn_conformance.process_state import process_state
from attn_conformance.scope import Scope
from attn_conformance.subject import Array, Result, Subject, blaming
from attn_reference import Claims, Problem, lower


@dataclass(frozen=True)
class KernelSubject(Subject):
    """`function`, called with its framework's arrays."""

    kind: ClassVar[Literal["kernel", "module"]] = "kernel"

    target: str
    function: Callable[..., Any]
    convention: Convention
    border: Border
    claims: Claims
    device: str = "cpu"
    foreign: bool = False
    assumed: frozenset[str] = frozenset()
    state: dict[str, Any] = field(default_factory=process_state, compare=False, repr=False)

    def open(self) -> KernelSubject:
        """Of a function that has `fresh()`, what that returns, else the function itself."""
        with blaming():
            fresh = getattr(self.function, "fresh", None)
            return replace(self, function=fresh()) if callable(fresh) else self

    def claiming(self, claims: Claims) -> KernelSubject:
        """The same implementation under other claims."""
        return replace(self, claims=claims)

    @property
    def scope(self) -> Scope:
        """What may be drawn for this subject."""
        return Scope(self.claims, self.border.layouts, self.border.grad_modes)

    def lower(self, call: Call) -> Problem:
        """The problem that a call poses under this subject's convention."""
        if call.is_causal and self.convention.alignment == "top-left":
            queries, keys = call.q.shape[2], call.k.shape[2]
            call = replace(call, is_causal=False, mask=np.tri(queries, keys, dtype=bool))
        return lower(call.q, call.k, call.v, call.mask, call.is_causal, call.scale)

    def arguments(self, call: Call) -> dict[str, Array]:
        """q, k, v and mask, axes in the order of the convention."""
        named = put(call.fault, call.arrays(), call.sizes)
        for name, array in named.items():
            if name != "mask" and self.convention.axes == "BTHD" and array.ndim == 4:
                named[name] = np.ascontiguousarray(array.swapaxes(1, 2))
            elif name == "mask" and self.convention.four_dimensional and array.ndim == 2:
                named[name] = array[None, None]
        return named

    def differentiated(self, call: Call, of: Iterable[str]) -> Differentiated:
        """The function, of those of q, k, v and mask that are named."""
        natives = self.natives(call)

        def function(inputs: Natives) -> Any:
            args, kwargs = self.bind({**natives, **inputs}, call)
            returned = self.function(*args, **kwargs)
            return returned[0] if "lse" in self.claims.features else returned

        (B, H, T, _), Dv = call.q.shape, call.v.shape[3]
        inputs = {name: natives[name] for name in of}
        if self.convention.axes == "BHTD":
            return Differentiated(function, inputs, (B, H, T, Dv))

        def outward(dout: Upstream) -> Array:
            swapped = upstream.arrange(dout.values, dout.layout).swapaxes(1, 2)
            return np.ascontiguousarray(swapped) if dout.layout == "contiguous" else swapped

        def inward(name: str, array: Array) -> Array:
            return array if name == "mask" else array.swapaxes(1, 2)

        return Differentiated(function, inputs, (B, T, H, Dv), outward=outward, inward=inward)

    def run(self, call: Call, natives: dict[str, Any] | None = None) -> Result:
        """Call the function."""
        natives = self.natives(call) if natives is None else natives
        args, kwargs = self.bind(natives, call)
        with blaming(), self.border.grad_mode(call.grad):
            returned = self.function(*args, **kwargs)
        lse: Any = None
        if "lse" in self.claims.features:
            if not isinstance(returned, tuple) or len(returned) != 2:
                raise Failed(f"claims lse, so a pair (out, lse) was expected, got {type(returned).__name__}")
            returned, lse = returned
        out, lse = self.received(returned), None if lse is None else self.received(lse)
        if self.convention.axes == "BTHD" and out.ndim == 4:
            out = out.swapaxes(1, 2)
        return Result(out, lse, self.device_of(returned), returned)

    def bind(self, natives: Natives, call: Call) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with which the function is called, by position and by name."""
        names = self.convention.names
        kwargs: dict[str, Any] = {}
        if "mask" in natives:
            # Which parameter a mask goes to, its dtype decides: that of the array that is handed over.
            boolean = str(natives["mask"].dtype).endswith("bool")
            role = "bias" if "bias" in names and not boolean else "mask"
            kwargs[names[role]] = natives["mask"]
        if call.is_causal:
            kwargs[names["is_causal"]] = True
        if call.scale is not None:
            kwargs[names["scale"]] = call.scale
        if "gqa" in names and call.q.shape[1] != call.k.shape[1]:
            kwargs[names["gqa"]] = True
        return [natives["q"], natives["k"], natives["v"]], kwargs
