"""The audit: whether an implementation computes with the reference, and so could pass by copying it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attn_reference
from attn_conformance.borders import unwrapped

HOME = str(Path(attn_reference.__file__).parent)

FREE = frozenset({"__init__.py", "claims.py", "errors.py", "interface.py", "requirements.py"})
"""Files of the reference without any arithmetic: its interface and its error texts are there to be shared."""

OWN = frozenset({"attn_reference", "attn_conformance"})
"""Packages whose implementations may call the reference: they are the reference, or its mutants and twins."""

_listening: list[set[str]] = []


@contextmanager
def auditing() -> Iterator[set[str]]:
    """Within, calls of the implementation are listened to; gives the functions of the reference that they called."""
    heard: set[str] = set()
    _listening.append(heard)
    try:
        yield heard
    finally:
        _listening.pop()


@contextmanager
def listening() -> Iterator[None]:
    """Around one call of the implementation, with the threads that it starts: free unless it is being audited."""
    if not _listening:
        yield
        return
    heard = _listening[-1]

    def called(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(HOME) and Path(code.co_filename).name not in FREE:
            heard.add(f"attn_reference.{Path(code.co_filename).stem}.{code.co_qualname}")

    before, before_in_threads = sys.getprofile(), threading.getprofile()
    sys.setprofile(called)
    threading.setprofile(called)
    try:
        yield
    finally:
        sys.setprofile(before)
        threading.setprofile(before_in_threads)


def foreign(implementation: Any) -> bool:
    """Whether an implementation (a function, a class or an adapter) comes from elsewhere than these packages."""
    inner = unwrapped(getattr(implementation, "cls", implementation))
    home = getattr(inner, "__module__", None) or type(inner).__module__
    return str(home).partition(".")[0] not in OWN
