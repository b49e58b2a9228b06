"""The requirements of the specification as data: requirements.toml, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, TypeVar, get_args

from .claims import FEATURES

SPEC_VERSION = "1"

Level = Literal["must", "should", "observed"]
Source = Literal["seed", "decided", "ext", "silent"]
Kind = Literal["module", "kernel"]
Verdict = Literal["agrees", "differs", "silent"]

LIBRARIES = ("pytorch-sdpa", "flash-attention", "onnx-attention", "nn-multiheadattention")

_KEYS = {
    *("id", "level", "claimed_level", "source", "since", "kinds", "rests_on", "validated", "benched"),
    *("text", "reason", "agrees"),
}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Agreement:
    """What one library does about a requirement.

    verdict: whether its documentation, source or maintainers say the same, behind the link; "silent" where
    they say nothing or the question cannot arise. note: in what way, and what it was seen doing.
    """

    library: str
    verdict: Verdict
    note: str
    link: str


@dataclass(frozen=True)
class Requirement:
    """One row of the specification.

    kinds: the kinds of implementation it applies to. rests_on: the features (keys of FEATURES) without which
    there is nothing to ask. reason: why a decided requirement is as it is. validated: observed for a kernel,
    unless it claims "validates". benched: judged by benchmarks, not by checks. claimed_level: the level that takes
    the place of `level` for an implementation that claims the property. agrees: empty, or an entry for each
    of LIBRARIES.
    """

    id: str
    level: Level
    source: Source
    since: str
    kinds: tuple[Kind, ...]
    rests_on: tuple[str, ...]
    text: str
    reason: str = ""
    validated: bool = False
    benched: bool = False
    claimed_level: Level | None = None
    agrees: tuple[Agreement, ...] = ()

    @property
    def group(self) -> str:
        """The area of the specification: the part of the id before the dash."""
        return self.id.partition("-")[0]


def load_requirements() -> dict[str, Requirement]:
    """Every requirement by id, in the order of the specification."""
    return dict(_load())


@lru_cache(maxsize=1)
def _load() -> dict[str, Requirement]:
    return parse_requirements(
        files("attn_reference").joinpath("requirements.toml").read_text(encoding="utf-8")
    )


def parse_requirements(text: str) -> dict[str, Requirement]:
    """The requirements in a TOML text, by id.

    ValueError, naming the requirement and the key, if the table is malformed.
    """
    table = tomllib.loads(text)
    if table.get("spec") != SPEC_VERSION:
        raise ValueError(f"spec must be {SPEC_VERSION!r}, got {table.get('spec')!r}")
    if unknown := sorted(table.keys() - {"spec", "requirement"}):
        raise ValueError(f"unknown keys {unknown} beside [[requirement]]")
    requirements: dict[str, Requirement] = {}
    for entry in table.get("requirement", []):
        requirement = _requirement(entry)
        if requirement.id in requirements:
            raise ValueError(f"{requirement.id}: this id is used twice")
        requirements[requirement.id] = requirement
    return requirements


def _requirement(entry: Mapping[str, Any]) -> Requirement:
    name = _text(entry, "id", "a requirement")
    group, dash, number = name.partition("-")
    if not (group.isalpha() and group.isupper() and dash and number.isdecimal()):
        raise ValueError(f"{name}: an id is capitals, a dash and a number")
    if unknown := sorted(entry.keys() - _KEYS):
        raise ValueError(f"{name}: unknown keys {unknown}; known are {sorted(_KEYS)}")
    claimed_level = entry.get("claimed_level")
    requirement = Requirement(
        id=name,
        level=_one_of(get_args(Level), entry.get("level"), "level", name),
        source=_one_of(get_args(Source), entry.get("source"), "source", name),
        since=_text(entry, "since", name),
        kinds=tuple(_one_of(get_args(Kind), kind, "kinds", name) for kind in _strings(entry, "kinds", name)),
        rests_on=tuple(
            _one_of(tuple(FEATURES), feature, "rests_on", name)
            for feature in _strings(entry, "rests_on", name)
        ),
        text=_text(entry, "text", name),
        reason=_text(entry, "reason", name) if "reason" in entry else "",
        validated=_flag(entry, "validated", name),
        benched=_flag(entry, "benched", name),
        claimed_level=None
        if claimed_level is None
        else _one_of(get_args(Level), claimed_level, "claimed_level", name),
        agrees=_agreements(entry["agrees"], name) if "agrees" in entry else (),
    )
    if not requirement.kinds:
        raise ValueError(f"{name}: kinds must name at least one of {list(get_args(Kind))}")
    if requirement.source == "decided" and not (requirement.reason and requirement.agrees):
        raise ValueError(f"{name}: what is decided needs a reason and [requirement.agrees]")
    return requirement


def _agreements(table: object, name: str) -> tuple[Agreement, ...]:
    if not isinstance(table, dict) or table.keys() != set(LIBRARIES):
        got = sorted(table) if isinstance(table, dict) else table
        raise ValueError(f"{name}: agrees must speak of each of {list(LIBRARIES)}, got {got}")
    return tuple(_agreement(library, table[library], f"{name}: agrees.{library}") for library in LIBRARIES)


def _agreement(library: str, entry: object, name: str) -> Agreement:
    if not isinstance(entry, dict) or entry.keys() != {"verdict", "note", "link"}:
        raise ValueError(f"{name}: must have verdict, note and link, got {entry!r}")
    link = _text(entry, "link", name)
    if not link.startswith("https://"):
        raise ValueError(f"{name}: link must start with https://, got {link!r}")
    verdict: Verdict = _one_of(get_args(Verdict), entry["verdict"], "verdict", name)
    return Agreement(library=library, verdict=verdict, note=_text(entry, "note", name), link=link)


def _one_of(allowed: tuple[_T, ...], value: object, key: str, name: str) -> _T:
    for candidate in allowed:
        if candidate == value:
            return candidate
    raise ValueError(f"{name}: unknown {key} {value!r}; known are {list(allowed)}")


def _text(entry: Mapping[str, Any], key: str, name: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: {key} is missing or empty")
    return value


def _strings(entry: Mapping[str, Any], key: str, name: str) -> list[Any]:
    value = entry.get(key)
    if not isinstance(value, list) or len(set(map(str, value))) != len(value):
        raise ValueError(f"{name}: {key} must be a list without repetitions, got {value!r}")
    return value


def _flag(entry: Mapping[str, Any], key: str, name: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: {key} must be true or false, got {value!r}")
    return value
