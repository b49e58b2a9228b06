"""The state of the process that calls have to leave alone, beside the random generators."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def process_state() -> dict[str, Any]:
    """Settings by name; PyTorch's where it is in use."""
    state: dict[str, Any] = {"the working directory": os.getcwd(), "NumPy's error handling": np.geterr()}
    torch = sys.modules.get("torch")
    if torch is not None:
        state |= {
            "PyTorch's default dtype": torch.get_default_dtype(),
            "PyTorch's gradient mode": torch.is_grad_enabled(),
            "PyTorch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
            "PyTorch's precision of float32 products": torch.get_float32_matmul_precision(),
        }
    return state


def changes(before: dict[str, Any]) -> list[str]:
    """What is no longer as it was, in words; of what was not in use then, nothing is known."""
    now = process_state()
    return [f"{name} from {old} to {now[name]}" for name, old in before.items() if now[name] != old]


@contextmanager
def keeping_threads() -> Iterator[list[str]]:
    """Within, PyTorch has a number of threads that nobody would set; afterwards the list says if it was changed."""
    torch = sys.modules.get("torch")
    said: list[str] = []
    if torch is None:
        yield said
        return
    usual = torch.get_num_threads()
    torch.set_num_threads(usual + 1)
    try:
        yield said
        if (now := torch.get_num_threads()) != usual + 1:
            said.append(f"PyTorch's number of threads from {usual + 1} to {now}")
    finally:
        torch.set_num_threads(usual)
