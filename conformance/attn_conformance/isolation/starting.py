"""Starting: processes that begin without the state of this one, and are quick to start again."""

from __future__ import annotations

import ast
import importlib.util
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from attn_conformance.loading import OWN, place

WITHOUT_TORCH = {"attn_reference", "numpy", "jax", *OWN, *sys.stdlib_module_names}
"""Where targets begin that need no PyTorch: others may, and find it imported already."""

PAUSES = (0.1, 0.3, 1.0)
"""Seconds between attempts to start: a fork server that a target killed is replaced once the system knows it."""

_main_hidden = threading.Lock()


def context(target: str, device: str) -> BaseContext:
    """How processes for a target start: forked from a server that has imported much and run nothing; CUDA afresh.

    A fork of a process that has run PyTorch's threads would wait for them for ever, and CUDA survives no fork.
    """
    if device == "cuda" or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    modules = ["attn_conformance.isolation.worker", "attn_conformance.registry"]
    server.set_forkserver_preload([*modules, "torch"] if may_use_torch(target) else modules)
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
    with _main_hidden:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return _started(context, function, (life, *arguments)), ours
        finally:
            sys.modules["__main__"] = main
            life.close()


def _started(context: BaseContext, function: Callable[..., None], arguments: tuple[Any, ...]) -> BaseProcess:
    def attempt() -> BaseProcess:
        process: BaseProcess = context.Process(target=function, args=arguments)  # type: ignore[attr-defined]
        process.start()
        return process

    for pause in PAUSES:
        with suppress(ConnectionError, EOFError):
            return attempt()
        time.sleep(pause)
    return attempt()


def may_use_torch(target: str) -> bool:
    """Whether PyTorch is at hand, and the target imports more than is known to do without it."""
    if importlib.util.find_spec("torch") is None:
        return False
    home, _ = place(target)
    imported = _imports(Path(home)) if home.endswith(".py") else [home]
    return any(name.partition(".")[0] not in WITHOUT_TORCH for name in imported)


def _imports(file: Path) -> list[str]:
    """The modules that a file of Python imports; none if it cannot be read, which loading it will tell."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names
