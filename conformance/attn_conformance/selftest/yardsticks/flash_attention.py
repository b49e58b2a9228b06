"""In the manner of flash-attention's tests: no error beyond a small multiple of that of PyTorch in the same dtype."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from attn_conformance.judge import Failed
from attn_conformance.selftest.yardsticks.formula import solved
from attn_conformance.selftest.yardsticks.posing import Posed, as_module, drawn, posable, results
from attn_conformance.selftest.yardsticks.reach import FUNCTION, STEPS, UNMASKED
from attn_conformance.selftest.yardsticks.yardstick import Yardstick
from attn_conformance.subject import Subject

DTYPES = ("float16", "bfloat16")
OUTPUT = ((113, 203, 32), (128, 217, 59), (113, 211, 64), (108, 256, 111), (256, 512, 40), (512, 256, 96))
CAUSAL = ((1, 239, 64), (3, 799, 32), (127, 512, 59), (127, 513, 40), (113, 203, 128), (108, 256, 80))
CACHED = ((1, 128, 59), (1, 339, 32), (64, 256, 32), (3, 799, 32), (128, 128, 32))
GROUPS = (6, 1, 2)
"""Key heads of six query heads: none shared, all shared, groups of three."""

SEED = 0


@cache
def _output() -> tuple[Posed, ...]:
    return tuple(
        drawn(SEED, dtype, (2, 6, T, D), (2, heads, S, D), causal=causal)
        for n, (T, S, D) in enumerate(OUTPUT)
        for heads in (6, GROUPS[1 + n % 2])
        for causal in (False, True)
        for dtype in DTYPES
    )


@cache
def _causal() -> tuple[Posed, ...]:
    swapped = ((S, T, D) for T, S, D in CAUSAL)
    return tuple(
        drawn(SEED, dtype, (2, 3, T, D), (2, 3, S, D), causal=True)
        for T, S, D in (*CAUSAL, *swapped)
        for dtype in DTYPES
    )


@cache
def _overflow() -> tuple[Posed, ...]:
    return tuple(
        drawn(SEED, "float16", (2, 5, L, D), (2, 5, L, D), causal=causal, gain=(5, 3))
        for L in (1, 2, 5, 17, 128)
        for D in (16, 32, 64)
        for causal in (False, True)
    )


@cache
def _transposed() -> tuple[Posed, ...]:
    return tuple(
        drawn(SEED, dtype, (5, 2, L, 64), (5, 2, L, 64), causal=causal, dout_layout="transposed")
        for L in (97, 128, 200)
        for causal in (False, True)
        for dtype in DTYPES
    )


@cache
def _cached() -> tuple[Posed, ...]:
    return tuple(
        drawn(SEED, "float16", (2, 6, T, D), (2, 6, S, D), causal=causal, dout_layout=None)
        for T, S, D in CACHED
        for causal in (False, True)
    )


@cache
def _repeated() -> tuple[Posed, ...]:
    return tuple(
        drawn(SEED, "float16", (8, 4, T, 32), (8, 4, S, 32), causal=causal)
        for T, S in ((1, 239), (239, 1), (97, 97), (128, 128))
        for causal in (False, True)
    )


def _held(
    subject: Subject,
    case: Posed,
    out: float,
    gradients: float,
    more: float,
    grace: float,
    scale: float | None = None,
) -> None:
    """Failed unless the output is within `out` times PyTorch's error + more, gradients within theirs + grace."""
    call = case.call if scale is not None else posable(subject, case.call)
    assert call is not None
    call = replace(call, window="cached") if scale is not None else call
    exact = solved(case, "float32", "q", scale)
    rough = solved(case, case.call.dtype, "k", scale)
    for name, got in results(subject, case, call).items():
        factor, constant = (out, more) if name == "out" else (gradients, grace)
        error = np.abs(got.astype(np.float64) - exact[name]).max(initial=0.0)
        allowed = factor * np.abs(rough[name] - exact[name]).max(initial=0.0) + constant
        if not error <= allowed:
            raise Failed(f"{case.describe()}: {name} off by {error:.3g}, allowed {allowed:.3g}")


def _all(
    subject: Subject,
    cases: tuple[Posed, ...],
    out: float,
    gradients: float,
    more: float = 0.0,
    grace: float = 0.0,
) -> bool:
    mine = [case for case in cases if posable(subject, case.call) is not None]
    for case in mine:
        _held(subject, case, out, gradients, more, grace)
    return bool(mine)


def output(subject: Subject) -> bool:
    """test_flash_attn_output: seed 0; 6 heads on 6, 2 or 1; causal or not; output within 2, gradients within 3 times.

    Batch 2 of 4, the six shorter of ten pairs of lengths, one of its head sizes with each. No windows, ALiBi, dropout
    or softcap.
    """
    return _all(subject, _output(), 2, 3)


def causal(subject: Subject) -> bool:
    """test_flash_attn_causal: T and S differ, and change places; within 2 times + 1e-5. Batch 2 of 8, 3 heads of 9."""
    return _all(subject, _causal(), 2, 2, 1e-5, 1e-5)


def overflow(subject: Subject) -> bool:
    """test_flash_attn_bwd_overflow, all of it: float16, q times 5, k and v times 3; gradients within 5 times + 1e-3."""
    return _all(subject, _overflow(), 2, 5, 0.0, 1e-3)


def transposed_gradient(subject: Subject) -> bool:
    """test_flash_attn_bwd_transpose: an output gradient that is not contiguous; within 2 times. D = 64."""
    return "gradients" in subject.claims.features and _all(subject, _transposed(), 2, 2)


def cached(subject: Subject) -> bool:
    """test_flash_attn_kvcache, new keys behind cached ones: within 3 times + 1e-5. Modules with a cache take two steps.

    Without rotary embeddings, pages, padding on the left and windows; five of its eleven pairs of lengths.
    """
    module = as_module(subject)
    features = subject.claims.features
    if module is None or "cache" not in features or "float16" not in subject.claims.dtypes:
        return False
    mine = [case for case in _cached() if "causal" in features or not case.call.is_causal]
    for case in mine:
        width = module.carrier(replace(case.call, window="cached")).width
        _held(module, case, 3, 3, 1e-5, 1e-5, width**-0.5)
    return True


def repeated(subject: Subject) -> bool:
    """test_flash_attn_race_condition: a call repeated is bitwise the same, dq too. 3 calls of 250, batch 8 of 60."""
    mine = [(case, call) for case in _repeated() if (call := posable(subject, case.call)) is not None]
    for case, call in mine:
        first = results(subject, case, call)
        log_sums = subject.run(call).lse
        for _ in range(2):
            for name, again in results(subject, case, call).items():
                if not np.array_equal(again, first[name]):
                    raise Failed(f"{case.describe()}: {name} differs when the call is repeated")
            again_sums = subject.run(call).lse
            if log_sums is not None and (again_sums is None or not np.array_equal(log_sums, again_sums)):
                raise Failed(f"{case.describe()}: the log-sum-exp differs when the call is repeated")
    return bool(mine)


YARDSTICK = Yardstick(
    name="flash-attention",
    title="flash-attention",
    sources=("Dao-AILab/flash-attention, tests/test_flash_attn.py at 0251105",),
    about=(
        "float16 and bfloat16, normal inputs, lengths 1 to 799 (those beyond and 1023, 1024, 2048 left out), head "
        "sizes 16 to 128; the reference is PyTorch in float32, and the error may be 2 to 5 times that of PyTorch in "
        "the same dtype. No masks: the interface has none. Modules are reached through qkv_attention, and their caches "
        "by two steps."
    ),
    tests=(output, causal, overflow, transposed_gradient, cached, repeated),
    reach={"kernel": UNMASKED | {"KERN-1", "KERN-2", "KERN-4"}, "module": (UNMASKED & FUNCTION) | STEPS},
    dtypes=DTYPES,
)
