"""A function that says of itself what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar, cast

from attn_reference.claims import Claims

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Claiming(Protocol[P, R_co]):
    """A callable that carries its claims."""

    claims: Claims

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function."""
        ...


def claiming(claims: Claims) -> Callable[[Callable[P, R_co]], Claiming[P, R_co]]:
    """Decorator: hang `claims` on the function, which is otherwise unchanged."""

    def mark(function: Callable[P, R_co]) -> Claiming[P, R_co]:
        vars(function)["claims"] = claims
        return cast("Claiming[P, R_co]", function)

    return mark
