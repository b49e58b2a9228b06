"""Starting: processes that begin without the state of this one, and are quick to start again."""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from attn_conformance.loading import OWN, place

WITHOUT_TORCH = ("attn_reference", "numpy", "jax", *OWN)
"""Where targets begin that need no PyTorch: others may, and find it imported already."""

_main_hidden = threading.Lock()


def context(target: str, device: str) -> BaseContext:
    """How processes for a target start: forked from a server that has imported much and run nothing; CUDA afresh.

    A fork of a process that has run PyTorch's threads would wait for them for ever, and CUDA survives no fork.
    """
    if device == "cuda" or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    modules = ["attn_conformance.isolation.worker", "attn_conformance.registry"]
    server.set_forkserver_preload([*modules, "torch"] if _may_use_torch(target) else modules)
    return server


def start(
    context: BaseContext, function: Callable[..., None], *arguments: Any
) -> tuple[BaseProcess, Connection]:
    """Start a process that calls a function of an importable module, with our life and the arguments.

    Our life is the reading end of a pipe to which nobody writes. Its other end is given back: when that is closed, by
    us or by the system when this process ends, the life is over.

    The caller's main module is hidden meanwhile: the process needs nothing of it, and a script that has no
    `if __name__ == "__main__"` would run again in there.
    """
    life, ours = context.Pipe(duplex=False)
    process: BaseProcess = context.Process(target=function, args=(life, *arguments))  # type: ignore[attr-defined]
    with _main_hidden:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            process.start()
        finally:
            sys.modules["__main__"] = main
            life.close()
    return process, ours


def _may_use_torch(target: str) -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    home, _ = place(target)
    if home.endswith(".py") and Path(home).is_file():
        return "torch" in Path(home).read_text(encoding="utf-8", errors="replace")
    return home.partition(".")[0] not in WITHOUT_TORCH
