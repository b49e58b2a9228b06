"""Right answers to another problem than the one that was posed, where whoever posed it knows which."""

from __future__ import annotations

from attn_conformance.causes.cause import Cause, Situation, from_answer_to


def _mistaken(name: str, clause: str, key: str) -> Cause:
    def distance(situation: Situation) -> float | None:
        others = (other for other in situation.mistaken.get(key, ()) if other is not None)
        found = (from_answer_to(situation, other) for other in others)
        return next((far for far in found if far is not None), None)

    return Cause(name, f"every element is what attention gives {clause}", distance)


CAUSES = (
    _mistaken("cross-entry-unused", "with the xa of this call, not with the cached entry", "own xa"),
    _mistaken("another-cache", "with what another cache holds", "another cache"),
)
