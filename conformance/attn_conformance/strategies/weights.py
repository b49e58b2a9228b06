"""Weights: how often each of several strategies is drawn from."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def weighted(*choices: tuple[int, SearchStrategy[T]]) -> SearchStrategy[T]:
    """Draws from each strategy as often as its weight says; failures shrink to the first.

    `one_of` drops a strategy that is named again, so it cannot say that.
    """
    repeated = [choice for weight, choice in choices for _ in range(weight)]
    return st.sampled_from(repeated).flatmap(lambda choice: choice)
