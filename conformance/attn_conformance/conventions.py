"""Conventions: how a family of attention functions spells its arguments, and where it documents a difference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from attn_reference.claims import DTYPES, MODULE_FEATURES, PLAIN_FEATURES


@dataclass(frozen=True)
class Difference:
    """Where a family documents that it departs from a requirement, in whose place this is then tested."""

    requirement: str
    text: str
    link: str


@dataclass(frozen=True)
class Convention:
    """A data preset; nothing here runs a kernel.

    names: role -> parameter name, for the roles mask, bias, is_causal, scale and gqa (a flag that grouped
    heads need); a role that is absent cannot be expressed, floating masks go to bias where it exists. axes:
    "BHTD" or "BTHD". alignment: which corner the causal triangle is anchored at when T != S.
    four_dimensional: masks must have rank 4.
    """

    name: str
    names: Mapping[str, str]
    axes: Literal["BHTD", "BTHD"] = "BHTD"
    features: frozenset[str] = PLAIN_FEATURES
    dtypes: tuple[str, ...] = DTYPES
    alignment: Literal["bottom-right", "top-left"] = "bottom-right"
    four_dimensional: bool = False
    differences: tuple[Difference, ...] = ()

    def difference(self, requirement: str) -> Difference | None:
        """The documented difference that replaces a requirement, if there is one."""
        return next((d for d in self.differences if d.requirement == requirement), None)


KERNEL = Convention("kernel", {"mask": "mask", "is_causal": "is_causal", "scale": "scale"})

_SDPA = "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html"

TORCH_SDPA = Convention(
    "torch-sdpa",
    {"mask": "attn_mask", "is_causal": "is_causal", "scale": "scale", "gqa": "enable_gqa"},
    # A floating mask has "the same type as query, key, value", so float32 beside bfloat16 is not claimed.
    features=(PLAIN_FEATURES - {"float32-mask"}) | {"gqa", "scale", "dv"},
    alignment="top-left",
    differences=(
        Difference(
            "CAUSAL-3",
            "with T != S the causal triangle is anchored at the top left: key j is visible to query i iff j <= i",
            _SDPA,
        ),
        Difference(
            "MASK-2",
            "a floating mask must have the dtype of q: float32 masks beside lower dtypes are not asked for",
            _SDPA,
        ),
    ),
)

FLASH_ATTN = Convention(
    "flash-attn",
    {"is_causal": "causal", "scale": "softmax_scale"},
    axes="BTHD",
    features=frozenset({"causal", "cross", "gradients", "gqa", "scale"}),
    dtypes=("float16", "bfloat16"),
)

JAX = Convention(
    "jax",
    {"mask": "mask", "bias": "bias", "is_causal": "is_causal", "scale": "scale"},
    axes="BTHD",
    features=PLAIN_FEATURES | {"gqa", "scale"},
    dtypes=("float32", "float16", "bfloat16"),  # float64 only where jax_enable_x64 is set
    four_dimensional=True,
)

SEED = Convention("seed", {}, features=MODULE_FEATURES)
"""A class with the interface of the seed that keeps its cache in the mapping it is given."""

WHISPER_HOOKS = Convention("whisper-hooks", {}, features=MODULE_FEATURES)
"""The same, where forward hooks on key and value manage the mapping."""

ADAPTER = Convention("adapter", {}, features=MODULE_FEATURES)
"""An object that satisfies the Implementation protocol and spells everything the specification's way."""

CONVENTIONS = {c.name: c for c in (KERNEL, TORCH_SDPA, FLASH_ATTN, JAX, SEED, WHISPER_HOOKS)}


def parameters(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """Names of a function's parameters, or None where Python cannot tell (built-in functions)."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None


def recognise(function: Callable[..., Any]) -> Convention:
    """The convention that a function's signature follows; ValueError where none fits, with what to do."""
    names = parameters(function)
    if names is None:
        if getattr(function, "__name__", "") == "scaled_dot_product_attention":
            return TORCH_SDPA
        raise ValueError(
            f"{function!r} does not tell its parameters; name its convention with --convention "
            f"({', '.join(CONVENTIONS)})"
        )
    present = set(names)
    if {"attn_mask", "is_causal"} <= present:
        return TORCH_SDPA
    if {"causal", "softmax_scale"} <= present:
        return FLASH_ATTN
    if {"bias", "mask", "is_causal"} <= present:
        return JAX
    if len(names) >= 3 and (present & {"mask", "is_causal"} or len(names) == 3):
        return KERNEL
    raise ValueError(
        f"no convention has the parameters ({', '.join(names)}); attention kernels are called as "
        "fn(q, k, v, mask=None, is_causal=False), or name one of the conventions with --convention "
        f"({', '.join(CONVENTIONS)})"
    )


def expressible(convention: Convention, function: Callable[..., Any]) -> frozenset[str]:
    """The features of a convention that a function's own signature leaves room for."""
    features = set(convention.features)
    names = parameters(function)
    if names is None:
        return frozenset(features)
    catch_all = any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(function).parameters.values()
    )

    def has(role: str) -> bool:
        return catch_all or convention.names.get(role, "") in names

    if not has("mask"):
        features.discard("bool-mask")
    if not (has("bias") if "bias" in convention.names else has("mask")):
        features -= {"float-mask", "float32-mask"}
    if not has("is_causal"):
        features.discard("causal")
    if not has("scale"):
        features.discard("scale")
    return frozenset(features)
