"""The contract of adapters: what one lacks is told at once, and is no failure of a requirement."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from attn_conformance.loading import TargetError
from attn_conformance.targets import Narrowing, subject

SOURCE = """
from attn_reference import Claims, MultiHeadAttention


class Adapter:
    border = "numpy"
    claims = Claims(features=frozenset({"causal"}))

    def build(self, n_state, n_head, causal, params):
        module = MultiHeadAttention(n_state, n_head, causal)
        module.load_state_dict(dict(params))
        return module

    def forward(self, module, x, xa=None, mask=None):
        return module(x, xa, mask)


class Session:
    def __init__(self, module, cache=None):
        self.module, self.cache = module, {} if cache is None else cache

    def step(self, x, xa=None, mask=None):
        return self.module(x, xa, mask, self.cache)


class Caching(Adapter):
    open = Session


class Unstated:
    border, build, forward = "numpy", Adapter.build, Adapter.forward


class Elsewhere(Adapter):
    border = "pytorch"


class Listed(Adapter):
    claims = {"causal": True}


class Made:
    border, build, forward = "numpy", Adapter.build, Adapter.forward

    def __init__(self, claims):
        self.claims = claims


plain, caching, unstated, elsewhere, listed = Adapter(), Caching(), Unstated(), Elsewhere(), Listed()
made = Made(Adapter.claims)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "adapters_here.py"
    path.write_text(SOURCE, encoding="utf-8")
    yield path
    sys.modules.pop("adapters_here", None)


@pytest.mark.parametrize("name", ["plain", "caching", "made"])
def test_one_that_has_all_that_it_claims_is_judged(file: Path, name: str) -> None:
    assert subject(f"{file}:{name}")[0].kind == "module"


@pytest.mark.parametrize(
    ("name", "claims", "message"),
    [
        ("unstated", (), "is an object with build and forward, but lacks claims"),
        ("elsewhere", (), "has border = 'pytorch'; it is one of 'numpy', 'torch', 'jax'"),
        ("listed", (), r"has claims of type dict; write claims = Claims\(features="),
        (
            "Made",
            (),
            "is a class with build and forward; an adapter is an instance of it, such as adapter = Made",
        ),
        ("plain", ("cache",), "claims cache, but has no open"),
        ("plain", ("qkv",), "claims qkv, but has no attention"),
        (
            "caching",
            ("cache", "cache-edits"),
            "claims cache-edits, but its sessions have no reorder and no truncate",
        ),
    ],
)
def test_what_one_lacks_is_said(file: Path, name: str, claims: tuple[str, ...], message: str) -> None:
    with pytest.raises(TargetError, match=f"{message}.*"):
        subject(f"{file}:{name}", Narrowing(add=claims))


def test_an_adapter_takes_no_convention(file: Path) -> None:
    with pytest.raises(TargetError, match="an adapter spells its calls itself"):
        subject(f"{file}:plain", Narrowing(convention="seed"))
