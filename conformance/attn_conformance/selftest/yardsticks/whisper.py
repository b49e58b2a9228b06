"""In the manner of Whisper's test: an input is transcribed, and the text is looked at.

That test runs released weights, which are not at hand here: a small model of the same build, with fixed weights, takes
their place, and the tokens that it chooses with the formula's attention take the place of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from attn_conformance.judge import Failed
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.selftest.yardsticks import formula
from attn_conformance.selftest.yardsticks.posing import Array, as_module, forward, stepped
from attn_conformance.selftest.yardsticks.reach import CACHES, FORWARD
from attn_conformance.selftest.yardsticks.yardstick import Yardstick
from attn_conformance.subject import Subject

SIZE, HEADS = 384, 6
"""Those of Whisper's tiny model."""

LAYERS, FRAMES, VOCABULARY, TOKENS = 2, 150, 500, 16
"""Of 4 layers, 1500 frames, 51865 tokens."""

PROMPT = (3, 141, 59, 26)
"""What stands before the text: start, language, task, no timestamps."""

GAIN = 3.0
"""Of queries and keys: trained weights attend to few frames, random ones to all alike."""

NAMES = [f"{place}.{n}" for n in range(LAYERS) for place in ("encoder", "self", "cross")]


@dataclass(frozen=True, eq=False)
class Weights:
    """Of attention by name, of what follows it, of tokens, positions and logits; frames: the input, already encoded."""

    attention: dict[str, dict[str, Array]]
    hidden: dict[str, tuple[Array, Array]]
    tokens: Array
    positions: Array
    logits: Array
    frames: Array


class Attention(Protocol):
    """How a model attends: y of x by the module of a name; cached: whether what it keeps is used and kept."""

    def __call__(self, name: str, x: Array, xa: Array | None = None, *, cached: bool = False) -> Array:
        """(1, T, SIZE)."""
        ...


@cache
def weights() -> Weights:
    """Those of the model, the same ever."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, size: float = 1.0) -> Array:
        return (rng.standard_normal(shape) * size).astype(np.float32)

    root = SIZE**-0.5
    attention = {}
    for name in NAMES:
        gains = {"query": GAIN**0.5, "key": GAIN**0.5, "value": 1.0, "out": 1.0}
        attention[name] = {
            f"{part}.weight": normal(SIZE, SIZE, size=gain * root) for part, gain in gains.items()
        } | {f"{part}.bias": normal(SIZE, size=0.1) for part in ("query", "value", "out")}
    hidden = {
        name: (normal(SIZE, 4 * SIZE, size=root), normal(4 * SIZE, SIZE, size=root / 2))
        for name in NAMES
        if not name.startswith("self")
    }
    return Weights(
        attention,
        hidden,
        tokens=normal(VOCABULARY, SIZE),
        positions=normal(len(PROMPT) + TOKENS, SIZE, size=0.5),
        logits=normal(SIZE, VOCABULARY),
        frames=normal(1, FRAMES, SIZE),
    )


def _normed(x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5), np.float32)


def _wide(x: Array, name: str) -> Array:
    first, second = weights().hidden[name]
    y = _normed(x) @ first
    return np.asarray(y / (1 + np.exp(-1.702 * y)) @ second, np.float32)


def _encoded(attend: Attention) -> Array:
    x = weights().frames
    for n in range(LAYERS):
        x = x + attend(f"encoder.{n}", _normed(x))
        x = x + _wide(x, f"encoder.{n}")
    return _normed(x)


def _scored(attend: Attention, tokens: Sequence[int], start: int, frames: Array, *, cached: bool) -> Array:
    """The logits (VOCABULARY,) after tokens, the first of which stands at `start`."""
    model = weights()
    x = (model.tokens[list(tokens)] + model.positions[start : start + len(tokens)])[None]
    for n in range(LAYERS):
        x = x + attend(f"self.{n}", _normed(x), cached=cached)
        x = x + attend(f"cross.{n}", _normed(x), frames, cached=cached)
        x = x + _wide(x, f"cross.{n}")
    return np.asarray(_normed(x)[0, -1] @ model.logits)


def transcribed(attend: Attention) -> list[int]:
    """The language, from one token without a cache, then the text: the likeliest tokens, after the prompt at once."""
    frames = _encoded(attend)
    found = [int(_scored(attend, [PROMPT[0]], 0, frames, cached=False).argmax())]
    tokens: Sequence[int] = PROMPT
    start = 0
    for _ in range(TOKENS):
        found.append(int(_scored(attend, tokens, start, frames, cached=True).argmax()))
        start, tokens = start + len(tokens), found[-1:]
    return found


@cache
def expected() -> list[int]:
    """What the model says with the attention of the formula."""
    kept: dict[str, Array] = {}

    def attend(name: str, x: Array, xa: Array | None = None, *, cached: bool = False) -> Array:
        source = x
        if cached and xa is None:
            source = kept[name] = np.concatenate([kept[name], x], 1) if name in kept else x
        causal = name.startswith("self")
        keys = source if xa is None else xa
        y = formula.module(x, keys, weights().attention[name], HEADS, None, causal)
        return y.astype(np.float32)

    return transcribed(attend)


def _attending(module: ModuleSubject) -> Attention:
    """By modules under judgement, all of which share one cache."""
    built = {name: module.build(weights().attention[name], HEADS, name.startswith("self")) for name in NAMES}
    sessions: dict[str, Any] = {}

    def attend(name: str, x: Array, xa: Array | None = None, *, cached: bool = False) -> Array:
        if not cached:
            return forward(module, built[name], x, xa)
        if name not in sessions:
            shared = next(iter(sessions.values())).cache if sessions else None
            sessions[name] = module.session(built[name], shared)
        return stepped(module, sessions[name], x, xa)

    return attend


def transcription(subject: Subject) -> bool:
    """test_transcribe: one input, temperature 0, a cache; language and text as expected. float32, as on a CPU."""
    module = as_module(subject)
    needed = {"cache", "shared-cache", "causal", "cross"}
    if module is None or "float32" not in subject.claims.dtypes or not subject.claims.features >= needed:
        return False
    found = transcribed(_attending(module))
    for n, (got, right) in enumerate(zip(found, expected(), strict=True)):
        if got != right:
            raise Failed(f"token {n} of {len(found)} is {got}, expected {right}")
    return True


YARDSTICK = Yardstick(
    name="whisper",
    title="Whisper",
    sources=("openai/whisper, tests/test_transcribe.py at c0d2f62",),
    about=(
        "One input, float32, batch 1: encoder, causal decoder and cross-attention with one cache for all, a prompt of "
        "four tokens and then one at a time; only the chosen tokens are compared. There a recording is transcribed by "
        "released weights, and a few words of it are looked for; here two layers of the smallest model's width have "
        "fixed random weights, which follow small errors more closely than trained ones may. No test of attention by "
        "itself. No masks, no gradients, no errors."
    ),
    tests=(transcription,),
    reach={
        "module": (FORWARD | CACHES)
        - {*(f"MASK-{n}" for n in range(1, 11)), *(f"GRAD-{n}" for n in range(1, 7))}
        - {"CAUSAL-4", "CAUSAL-5", "CAUSAL-6", "CTOR-1", "CTOR-2", "CTOR-4", "ERR-1", "ERR-2", "ERR-3"}
        - {"EQ-3", "OUT-4", "OUT-6", "NUM-4", "MEM-1", "CACHE-6"}
    },
    dtypes=("float32",),
)
