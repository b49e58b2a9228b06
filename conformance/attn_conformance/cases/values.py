"""Families of values for q, k and v: each makes one kind of numerical trouble likely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Triple = tuple[Array, Array, Array]

STORAGE: dict[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}

LARGEST = {"float64": 1e30, "float32": 1e30, "bfloat16": 1e30, "float16": 6e4}
"""The largest magnitude ever stored: below float16's 65504, and 1e30 leaves room for products in float32."""

LARGEST_LOGIT = {"float64": 1e28, "float32": 1e28, "bfloat16": 1e28, "float16": 6e4}
"""The largest scaled logit that NUM-2 asks for: float16's own range, else sum |q||k| below 1e30."""

DEEPEST_LOGIT = 1e5
"""NUM-3 asks for rows of logits down to minus this."""


def _normal(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Logits of about unit size."""
    return q, k, v


def _large(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Logits of standard deviation 4 to 25: low-precision scores and wrong scales show."""
    factor = rng.uniform(2, 5)
    return q * factor, k * factor, v


def _tiny(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Everything is 1e-4 to 1e-2 of its usual size: float16 results are subnormal, weights alike but not equal."""
    factor = 10 ** rng.uniform(-4, -2)
    return q * factor, k * factor, v * factor


def _heavy(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Student's t with two degrees of freedom: a few entries dwarf the rest."""
    return (
        np.clip(rng.standard_t(2, q.shape), -200, 200),
        np.clip(rng.standard_t(2, k.shape), -200, 200),
        np.clip(rng.standard_t(2, v.shape), -200, 200),
    )


def _with_common_logit(q: Array, k: Array, logit: float) -> tuple[Array, Array]:
    """Replace the first feature so that every scaled logit is shifted by about `logit`."""
    size = q.shape[-1]
    magnitude = np.sqrt(abs(logit) * np.sqrt(size))
    q, k = q.copy(), k.copy()
    q[..., 0] = magnitude
    k[..., 0] = np.sign(logit) * magnitude
    return q, k


def _negative(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """All logits near one value between -100 and -1e5: a log-sum-exp far below zero."""
    q, k = _with_common_logit(q, k, -(10 ** rng.uniform(2, np.log10(_deepest(dtype)))))
    return q, k, v


def _lifted(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """All logits near one value between 800 and 4000: exp of any overflows in every dtype, and none stands out."""
    q, k = _with_common_logit(q, k, rng.uniform(800, 4000))
    return q, k, v


def _deep(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """All logits between -1.5e4 and -1e5, half of them near the end: below every finite fill in common use."""
    deepest = _deepest(dtype)
    q, k = _with_common_logit(q, k, -rng.uniform(1.5e4 if rng.random() < 0.5 else 0.9 * deepest, deepest))
    return q, k, v


def _deepest(dtype: str) -> float:
    return min(DEEPEST_LOGIT, LARGEST_LOGIT[dtype])


def _huge(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Scaled logits from 100 up to the dtype's limit: exp overflows unless the maximum is subtracted."""
    size = max(q.shape[-1], 1)
    # Half of the draws stay below 1e5, where the order of the logits is still resolved exactly enough to judge. The
    # others go up to the limit; in float16, where the two are the same, they lie near it: products beyond 65504 count.
    limit = LARGEST_LOGIT[dtype]
    if rng.random() < 0.5:
        logit = 10 ** rng.uniform(2, np.log10(min(limit, 1e5)))
    else:
        logit = limit * rng.uniform(0.5, 1) if limit < 1e5 else 10 ** rng.uniform(2, np.log10(limit))
    magnitude = np.sqrt(logit / np.sqrt(size))
    return np.sign(q) * magnitude, np.sign(k) * magnitude, v


def _growing(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """The row maximum rises along the keys by 20 to 300: an online softmax must rescale at every tile."""
    return _ramp(rng, q, k, v, rising=True)


def _falling(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """The row maximum is the first key and all later ones fall by 20 to 300."""
    return _ramp(rng, q, k, v, rising=False)


def _ramp(rng: np.random.Generator, q: Array, k: Array, v: Array, *, rising: bool) -> Triple:
    q, k = q.copy(), k.copy()
    keys, size = k.shape[-2], q.shape[-1]
    height = np.sqrt(10 ** rng.uniform(np.log10(20), np.log10(300)) * np.sqrt(size))
    ramp = np.linspace(-0.5, 0.5, keys) if keys > 1 else np.zeros(keys)
    q[..., 0] = height
    k[..., 0] = height * (ramp if rising else -ramp)
    return q, k, v


def _tied(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Keys are copies of at most three: equal weights round alike."""
    if k.shape[-2]:
        k = k[..., rng.integers(0, min(3, k.shape[-2]), k.shape[-2]), :]
    return q, k, v


def _even(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Q = 0: every visible key weighs the same, so one lost or extra key shifts the mean."""
    return q * 0, k, v + 1


def _cancelling(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Halves of q.k and of the value sum cancel: a low-precision accumulator loses what is left."""
    half = q.shape[-1] // 2
    q, k = q.copy(), k.copy()
    if half:
        k[..., half : 2 * half] = k[..., :half] + 0.01 * k[..., half : 2 * half]
        q[..., half : 2 * half] = -q[..., :half]
        q, k = q * 4, k * 4
    sign = np.where(np.arange(v.shape[-2]) < v.shape[-2] / 2, 1.0, -1.0)[:, None]
    return q, k, sign * 10 + 0.01 * v


def _integers(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Small integers, exact in every format."""
    return np.round(q), np.round(k), np.round(2 * v)


def _shifted(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """V = constant + noise: gains, lost keys and truncating casts show."""
    return q, k, v + rng.choice([10.0, 100.0])


def _heavy_values(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """S * abs(v) above 65504 while the mean fits: a sum of values in float16 overflows."""
    keys = max(v.shape[-2], 1)
    return q * 0.1, k, np.sign(v) * min(3e4, 2e5 / keys) + v


def _dominant(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Each query has one key whose logit is far above the others."""
    if k.shape[-2]:
        target = rng.integers(0, k.shape[-2], q.shape[-2])
        chosen = np.repeat(k, q.shape[1] // k.shape[1], axis=1)[..., target, :]
        q = chosen * rng.uniform(2, 6) + 0.1 * q
    return q, k, v


def _repeated(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Two keys share each row's maximum and nearly all weight, of a channel's values all have one sign.

    Of the weight of 1 all others together have e^-6 to e^-11: weights of a half less some of it round to a half.
    """
    keys = k.shape[-2]
    if keys > 1:
        q, k = _with_common_logit(0.3 * q, k, np.log(keys) + rng.uniform(6, 11))
        first, second = rng.permutation(keys)[:2]
        k[..., second, :] = k[..., first, :]
        k[..., ~np.isin(np.arange(keys), (first, second)), 0] = 0
    return q, k, np.abs(v) * rng.choice([-1.0, 1.0], v.shape[-1])


def _probe(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Values spell the index of their key in digits of base 8, so that a wrong key is seen at any length."""
    index = np.arange(v.shape[-2])[:, None]
    digit = (index // 8 ** (np.arange(v.shape[-1])[None] % 5)) % 8
    return q, k, np.broadcast_to(digit.astype(np.float64) + 1, v.shape).copy()


def _counted(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Each key counts 1 in one element of the output and 0 in all others: one lost, doubled or moved key is seen.

    Query i looks at the keys of its own group, which weigh the same; of these, key head n and channel c have their
    share. An element counts S / (T Hkv Dv) keys: of up to about 50, a single one is more than bfloat16's bound.
    """
    (T, D), (_, Hkv, S, Dv) = q.shape[2:], v.shape
    groups = max(min(T, D), 1)
    # At random: a key taken for one that is some power of two away is hardly ever one of the same element.
    element = rng.permutation(S) % (groups * Hkv * Dv)
    group, head, channel = element % groups, element // groups % Hkv, element // (groups * Hkv)
    edge = np.arange(max(S - T + 1, 0), S)
    group[edge] = (edge - (S - T + 1)) % groups  # of the last query from which causality hides it
    q, k, v = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    # Keys of other groups weigh e^-32; e^-18 inside modules, whose heads are three times as wide.
    q[:, :, np.arange(T), np.arange(T) % groups] = 32 * np.sqrt(D)
    k[:, :, np.arange(S), group] = 1
    v[:, head, np.arange(S), channel] = 1
    return q, k, v


def _zero_keys(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """Some keys are exactly zero and are keys all the same."""
    k = k.copy()
    if k.shape[-2]:
        k[..., rng.integers(0, k.shape[-2], 1 + k.shape[-2] // 4), :] = 0
    return q, k, v + 1


def _uneven_batch(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """One batch element has logits above 100 at every key, the others ordinary ones."""
    if q.shape[0]:
        q, k = q.copy(), k.copy()
        b = rng.integers(q.shape[0])
        q[b], k[b] = _with_common_logit(q[b], k[b], rng.uniform(150, 400))
    return q, k, v


def _uneven_heads(rng: np.random.Generator, q: Array, k: Array, v: Array, dtype: str) -> Triple:
    """One head has logits above 100 at every key, the others ordinary ones."""
    if k.shape[1]:
        q, k = q.copy(), k.copy()
        n, group = rng.integers(k.shape[1]), q.shape[1] // k.shape[1]
        shift = rng.uniform(150, 400)
        for h in range(n * group, (n + 1) * group):
            q[:, h], k[:, n] = _with_common_logit(q[:, h], k[:, n], shift)
    return q, k, v


FAMILIES: dict[str, Callable[[np.random.Generator, Array, Array, Array, str], Triple]] = {
    "normal": _normal,
    "large": _large,
    "heavy": _heavy,
    "tiny": _tiny,
    "negative": _negative,
    "deep": _deep,
    "huge": _huge,
    "lifted": _lifted,
    "growing": _growing,
    "falling": _falling,
    "tied": _tied,
    "repeated": _repeated,
    "even": _even,
    "cancelling": _cancelling,
    "integers": _integers,
    "shifted": _shifted,
    "heavy-values": _heavy_values,
    "dominant": _dominant,
    "probe": _probe,
    "counted": _counted,
    "zero-keys": _zero_keys,
    "uneven-batch": _uneven_batch,
    "uneven-heads": _uneven_heads,
}

POISONS = ("none", "values", "keys", "both")
"""Where finite, huge numbers are put in the slots of keys that nobody may see."""


def draw(rng: np.random.Generator, shapes: tuple[tuple[int, ...], ...], family: str, dtype: str) -> Triple:
    """q, k, v of the three shapes, in the storage dtype, C-contiguous."""
    q, k, v = (rng.standard_normal(shape) for shape in shapes)
    if q.shape[-1] and q.shape[0]:
        q, k, v = FAMILIES[family](rng, q, k, v, dtype)
    largest = LARGEST[dtype]
    q, k, v = (np.clip(x, -largest, largest).astype(STORAGE[dtype]) for x in (q, k, v))
    return q, k, v


def poison(rng: np.random.Generator, q: Array, k: Array, v: Array, hidden: Array, where: str) -> Triple:
    """Put huge finite numbers at the slots of `hidden` (B, Hkv, S), within what MASK-6 allows.

    Keys: up to 1e30 / (D max|q|), so that every score stays finite, signed to give a huge positive logit for
    most queries. Values: up to the largest stored magnitude.
    """
    if where == "none" or not hidden.any():
        return q, k, v
    dtype = q.dtype.name
    k, v = k.copy(), v.copy()
    largest = LARGEST[dtype]
    if where in ("keys", "both"):
        top = float(np.max(np.abs(q.astype(np.float64)), initial=0.0))
        most = min(largest, 1e30 / (max(q.shape[-1], 1) * max(top, 1e-30)))
        # float16 kernels may hold raw scores in float32 only: the scaled logit stays below 65504 there.
        if dtype == "float16":
            most = min(most, LARGEST_LOGIT[dtype] / (np.sqrt(q.shape[-1]) * max(top, 1e-30)))
        size = most if rng.random() < 0.5 else min(most, 40.0)
        group = q.shape[1] // k.shape[1]
        aim = np.sign(q.astype(np.float64).reshape(q.shape[0], k.shape[1], group * q.shape[2], -1).sum(2))
        k[hidden] = np.broadcast_to(np.where(aim == 0, 1.0, aim)[:, :, None, :] * size, k.shape)[hidden]
    if where in ("values", "both"):
        v[hidden] = np.where(rng.random(v.shape) < 0.5, -1.0, 1.0)[hidden] * largest
    return q, k.astype(q.dtype), v.astype(q.dtype)
