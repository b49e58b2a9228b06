"""The subject: one implementation as the checks see it, NumPy in and NumPy out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.borders import Border
from attn_conformance.cases import Call, layouts
from attn_conformance.conventions import Convention
from attn_conformance.judge import Answer, Failed, ask
from attn_reference import Claims, Problem, lower

Array = NDArray[Any]


class Raised(Failed):
    """The implementation raised where it had to answer; `error` is what it raised."""

    def __init__(self, error: Exception) -> None:
        text = " ".join(str(error).split())
        super().__init__(f"raised {type(error).__name__}: {text[:300]}")
        self.error = error


@dataclass(frozen=True)
class Scope:
    """What the strategies may draw for a subject: its claims, and the layouts and grad modes of its framework."""

    claims: Claims
    layouts: tuple[str, ...] = ("contiguous",)
    grad_modes: tuple[str, ...] = ("off",)

    def has(self, feature: str) -> bool:
        """Whether a feature is claimed."""
        return feature in self.claims.features


@dataclass(frozen=True, eq=False)
class Result:
    """What a call gave: out (B, H, T, Dv) and lse (B, H, T) or None as NumPy copies, and out's native device."""

    out: Array
    lse: Array | None
    device: str


@dataclass(frozen=True)
class Subject:
    """A kernel under judgement: `function` called as its convention says, with its framework's arrays."""

    target: str
    function: Callable[..., Any]
    convention: Convention
    border: Border
    claims: Claims
    device: str = "cpu"

    def open(self) -> Subject:
        """A fresh handle for one case: of a function that has `fresh()`, what that returns, else the function."""
        fresh = getattr(self.function, "fresh", None)
        return replace(self, function=fresh()) if callable(fresh) else self

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

    def answer(self, call: Call) -> Answer:
        """What the oracle allows for a call."""
        return ask(self.lower(call), call.dtype, self.claims.arithmetic)

    def attention(self, call: Call) -> Array:
        """The output of a call, (B, H, T, Dv); Failed if it raises or returns something of another shape."""
        out = self.run(call).out
        expected = (*call.q.shape[:3], call.v.shape[3])
        if out.shape != expected:
            raise Failed(f"returned shape {out.shape}, expected (B, H, T, Dv) = {expected}")
        return out

    def run(self, call: Call, natives: dict[str, Any] | None = None) -> Result:
        """Call the implementation; Raised for any exception of its own, Failed for a result of a wrong type.

        natives: the arguments that `natives(call)` made, where the caller wants to look at them afterwards.
        """
        natives = self.natives(call) if natives is None else natives
        args, kwargs = self._bind(natives, call)
        try:
            with warnings.catch_warnings(), self.border.grad_mode(call.grad):
                warnings.simplefilter("ignore")  # a target's warnings are its own affair
                returned = self.function(*args, **kwargs)
        except Exception as error:
            raise Raised(error) from error
        lse: Any = None
        if "lse" in self.claims.features:
            if not isinstance(returned, tuple) or len(returned) != 2:
                raise Failed(f"claims lse, so a pair (out, lse) was expected, got {type(returned).__name__}")
            returned, lse = returned
        try:
            out = self.border.asnumpy(returned)
            lse = None if lse is None else self.border.asnumpy(lse)
        except TypeError as error:
            raise Failed(f"returned the wrong type: {error}") from error
        if self.convention.axes == "BTHD" and out.ndim == 4:
            out = out.swapaxes(1, 2)
        return Result(out, lse, str(getattr(returned, "device", "cpu")))

    def natives(self, call: Call) -> dict[str, Any]:
        """The array arguments of a call as the framework's own arrays, fresh copies in the call's layout."""
        natives = {}
        for name, array in call.arrays().items():
            if name != "mask" and array.ndim == 4:
                if self.convention.axes == "BTHD":
                    array = np.ascontiguousarray(array.swapaxes(1, 2))
                layout = call.layout if name in call.laid_out else "contiguous"
                array = layouts.arrange(array, layout, expandable=name != "q")
            elif name == "mask" and self.convention.four_dimensional and array.ndim == 2:
                array = array[None, None]
            natives[name] = self.border.asarray(array, self.device, requires_grad=call.grad == "on")
        return natives

    def read(self, natives: dict[str, Any]) -> dict[str, Array]:
        """The values of native arguments, in the order of axes of a call."""
        arrays = {name: self.border.asnumpy(native) for name, native in natives.items()}
        if self.convention.axes == "BTHD":
            return {n: a.swapaxes(1, 2) if n != "mask" and a.ndim == 4 else a for n, a in arrays.items()}
        return arrays

    def _bind(self, natives: dict[str, Any], call: Call) -> tuple[list[Any], dict[str, Any]]:
        names = self.convention.names
        kwargs: dict[str, Any] = {}
        if call.mask is not None:
            role = "bias" if "bias" in names and call.mask.dtype != np.bool_ else "mask"
            kwargs[names[role]] = natives["mask"]
        if call.is_causal:
            kwargs[names["is_causal"]] = True
        if call.scale is not None:
            kwargs[names["scale"]] = call.scale
        if "gqa" in names and call.q.ndim == call.k.ndim == 4 and call.q.shape[1] != call.k.shape[1]:
            kwargs[names["gqa"]] = True
        return [natives["q"], natives["k"], natives["v"]], kwargs
