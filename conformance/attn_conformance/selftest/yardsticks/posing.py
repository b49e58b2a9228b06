"""Fixed inputs, and how they are put to kernels and, through qkv_attention, to modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import Call, Upstream
from attn_conformance.cases.forward import Forward
from attn_conformance.cases.values import STORAGE
from attn_conformance.judge import Failed
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.subject import Raised, Subject, blaming

Array = NDArray[Any]
Draw = Callable[..., Array]


@dataclass(frozen=True, eq=False)
class Posed:
    """A call with fixed inputs; dout: the output gradient if a backward pass follows, of: whose gradients are asked."""

    call: Call
    dout: Upstream | None = None
    of: tuple[str, ...] = ("q", "k", "v")

    def describe(self) -> str:
        """Sizes and what else is not plain."""
        (B, H, T, D), (_, Hkv, S, _) = self.call.q.shape, self.call.k.shape
        heads = f"H={H}" if Hkv == H else f"H={H}/{Hkv}"
        causal = " causal" if self.call.is_causal else ""
        mask = self.call.mask
        masked = "" if mask is None else f" {mask.dtype.name} mask {mask.shape}"
        return f"B={B} {heads} T={T} S={S} D={D} {self.call.dtype}{causal}{masked}"


def normal(seed: int, dtype: str) -> Draw:
    """A source of normal numbers in the storage dtype: called with the sizes of an array."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape).astype(STORAGE[dtype])


def drawn(
    seed: int,
    dtype: str,
    q: tuple[int, int, int, int],
    k: tuple[int, int, int, int],
    *,
    causal: bool = False,
    layout: str = "contiguous",
    gain: tuple[float, float] = (1, 1),
    dout_layout: str | None = "contiguous",
) -> Posed:
    """Normal q, and k and v of one shape; gain: factors on q, and on both; dout_layout: None for no backward pass."""
    source = normal(seed, dtype)
    kind = STORAGE[dtype]
    first, second = kind(gain[0]), kind(gain[1])
    arrays = [
        (source(*shape) * factor).astype(kind) for shape, factor in ((q, first), (k, second), (k, second))
    ]
    dout = None if dout_layout is None else Upstream(source(*q), dout_layout)
    return Posed(Call(arrays[0], arrays[1], arrays[2], is_causal=causal, layout=layout), dout)


def posable(subject: Subject, call: Call) -> Call | None:
    """The call as the subject takes it, None if it is none that the subject claims to serve."""
    claims, features = subject.claims, subject.claims.features
    (B, H, T, D), (_, Hkv, S, _), Dv = call.q.shape, call.k.shape, call.v.shape[3]
    needed = {
        "zero-sizes": 0 in (B, T, S),
        "causal": call.is_causal,
        "cross": T != S,
        "gqa": Hkv != H,
        "dv": Dv != D,
        "scale": call.scale is not None,
        "bool-mask": call.mask is not None and call.mask.dtype == np.bool_,
        "float-mask": call.mask is not None and call.mask.dtype == call.q.dtype,
    }
    if call.dtype not in claims.dtypes or any(need and name not in features for name, need in needed.items()):
        return None
    if subject.kind == "kernel":
        return call
    if "qkv" not in features or Hkv != H or Dv != D or call.scale is not None:
        return None
    return replace(call, window="qkv")


def results(subject: Subject, case: Posed, call: Call) -> dict[str, Array]:
    """The output of a call and, where gradients are claimed, those that the case asks for; Failed if one is missing."""
    found = {"out": subject.attention(call)}
    if case.dout is not None and "gradients" in subject.claims.features:
        pulled = subject.gradients(subject.differentiated(call, case.of), case.dout)
        for name, gradient in pulled.gradients.items():
            if gradient is None:
                raise Failed(f"{case.describe()}: no gradient of {name}")
            found[name] = gradient
    return found


def close(got: Array, expected: Array, rtol: float, atol: float, what: str) -> None:
    """Failed unless every element is within atol + rtol |expected|, NaN where NaN is expected."""
    if got.shape != expected.shape:
        raise Failed(f"{what}: shape {got.shape}, expected {expected.shape}")
    one, other = got.astype(np.float64), expected.astype(np.float64)
    if not np.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True):
        with np.errstate(all="ignore"):
            error = np.nanmax(np.abs(one - other), initial=0.0)
        raise Failed(f"{what}: off by {error:.3g}, tolerances rtol={rtol:g}, atol={atol:g}")


def refuses(call: Callable[[], Any], what: str) -> None:
    """Failed unless the implementation raises."""
    try:
        call()
    except Raised:
        return
    raise Failed(f"{what}: no exception")


def as_module(subject: Subject) -> ModuleSubject | None:
    """The subject if it is a module."""
    return subject if isinstance(subject, ModuleSubject) else None


def forward(
    subject: ModuleSubject, handle: Any, x: Array, xa: Array | None = None, mask: Array | None = None
) -> Array:
    """Forward without a cache by a module that is built: (B, T, n_state)."""
    return subject.forward(Forward(x, xa, {}, 1, mask), handle)


def stepped(
    subject: ModuleSubject, session: Any, x: Array, xa: Array | None = None, mask: Array | None = None
) -> Array:
    """One step of a session, (B, T, n_state)."""
    natives = [
        None if array is None else subject.border.asarray(array, subject.device) for array in (x, xa, mask)
    ]
    with blaming(), subject.border.grad_mode("off"):
        returned = session.step(*natives)
    y = subject.received(returned)
    if y.shape != x.shape:
        raise Failed(f"a step returned shape {y.shape}, expected {x.shape}")
    return y
