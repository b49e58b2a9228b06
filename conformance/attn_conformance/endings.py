"""Endings: exceptions that mean more than that a call has failed."""

from __future__ import annotations

import signal
from collections.abc import Callable

OUT_OF_MEMORY = (
    "MemoryError",
    "OutOfMemoryError",
    "can't allocate memory",
    "Unable to allocate",
    "out of memory",
)
"""What Python, PyTorch, NumPy and CUDA say when memory has run out."""

when_exhausted: list[Callable[[str], None]] = []
"""Called with what was said when an implementation has run out of memory: in workers, where the process then ends."""


def by_user(error: BaseException) -> bool:
    """Whether it is Ctrl-C: not where no keyboard reaches this process."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def out_of_memory(said: str) -> bool:
    """Whether an exception, by its name and text, means that memory has run out."""
    return any(words in said for words in OUT_OF_MEMORY)
