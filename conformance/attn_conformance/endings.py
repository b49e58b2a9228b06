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

DEVICE_LOST = ("CUDA error", "device-side assert", "illegal memory access", "misaligned address")
"""What PyTorch says when a process can use its CUDA device no more: in this call, or in any later one."""

BY_USER = 130
"""Exit status after Ctrl-C: 128 and the number of its signal, as shells have it."""

when_over: list[Callable[[str], None]] = []
"""Called with what was said when memory or the device is gone: in workers, where the process then ends."""


def by_user(error: BaseException) -> bool:
    """Whether it is Ctrl-C: not where no keyboard reaches this process."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


LONGEST = 300
"""Characters of an exception's text that are kept."""


def described(error: BaseException) -> str:
    """An exception's name and text, in one line that any terminal and file takes; it may lie in these, too."""
    try:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST]}".removesuffix(": ")
    except BaseException as unreadable:
        if by_user(unreadable):
            raise
        text = f"{type(error).__name__}: (its text raised {type(unreadable).__name__})"
    return printable(text)


def printable(text: str, keep: str = "") -> str:
    """The text with all but `keep` escaped that would steer a terminal, hide or reorder, or is no character at all."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def out_of_memory(said: str) -> bool:
    """Whether an exception, by its name and text, means that memory has run out."""
    return any(words in said for words in OUT_OF_MEMORY)


def over(said: str) -> bool:
    """Whether an exception, by its name and text, means that nothing more can be asked in this process."""
    return out_of_memory(said) or any(words in said for words in DEVICE_LOST)
