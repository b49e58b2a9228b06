"""The requirements table: what it says of itself, and how a malformed one is refused."""

from __future__ import annotations

import pickle
import re
import tomllib
from importlib.resources import files

import pytest

from attn_reference.claims import FEATURES
from attn_reference.requirements import LIBRARIES, Requirement, load_requirements, parse_requirements

REQUIREMENTS = load_requirements()
GROUPS = ["CTOR", "OUT", "EQ", "MASK", "CAUSAL", "CACHE", "ERR", "NUM", "GRAD", "PURE", "MEM"]
GROUPS += ["HOST", "KERN", "PERF"]

GOOD = """
spec = "1"
[[requirement]]
id = "MASK-1"
level = "must"
source = "decided"
since = "1"
kinds = ["module", "kernel"]
rests_on = ["bool-mask"]
text = "True = may attend."
reason = "Because."
[requirement.agrees]
pytorch-sdpa = {verdict = "agrees", note = "So.", link = "https://a.example"}
flash-attention = {verdict = "silent", note = "No masks.", link = "https://b.example"}
onnx-attention = {verdict = "agrees", note = "So.", link = "https://c.example"}
nn-multiheadattention = {verdict = "differs", note = "Inverted.", link = "https://d.example"}
"""


def named(*ids: str) -> set[str]:
    """Ids written as the specification writes them: "MASK-1..3", or "NUM-*" for a whole group."""
    found: set[str] = set()
    for pattern in ids:
        group, _, numbers = pattern.partition("-")
        if numbers == "*":
            found |= {r.id for r in REQUIREMENTS.values() if r.group == group}
        else:
            first, _, last = numbers.partition("..")
            found |= {f"{group}-{n}" for n in range(int(first), int(last or first) + 1)}
    assert found <= REQUIREMENTS.keys()
    return found


def test_ids_are_unique_and_in_the_order_of_the_specification() -> None:
    table = tomllib.loads(files("attn_reference").joinpath("requirements.toml").read_text(encoding="utf-8"))
    ids = [entry["id"] for entry in table["requirement"]]
    assert ids == list(REQUIREMENTS)
    assert len(ids) == len(set(ids)) == 76
    keys = [(GROUPS.index(id_.split("-")[0]), int(id_.split("-")[1])) for id_ in ids]
    assert keys == sorted(keys)
    for group in GROUPS:
        numbers = [number for index, number in keys if GROUPS[index] == group]
        assert numbers == list(range(1, len(numbers) + 1)), group


@pytest.mark.parametrize("requirement", REQUIREMENTS.values(), ids=list(REQUIREMENTS))
def test_each_requirement_is_complete(requirement: Requirement) -> None:
    assert requirement.kinds
    assert set(requirement.rests_on) <= FEATURES.keys()
    assert requirement.since == "1"
    assert re.fullmatch(r"[^\n]+\.", requirement.text), "one line that ends in a full stop"
    assert bool(requirement.reason) == (requirement.source == "decided")
    if requirement.source == "decided":
        assert requirement.agrees
    if requirement.agrees:
        assert tuple(agreement.library for agreement in requirement.agrees) == LIBRARIES
        assert all(agreement.link.startswith("https://") for agreement in requirement.agrees)
        assert all(re.fullmatch(r"[^\n]+\.", agreement.note) for agreement in requirement.agrees)
    if requirement.source == "silent":
        assert requirement.level == "observed"


def test_kinds_are_those_of_section_3() -> None:
    kernel = named(
        *("OUT-3", "OUT-4", "OUT-6", "EQ-3", "EQ-5", "EQ-6", "MASK-1..11", "CAUSAL-1..3", "CAUSAL-5"),
        *("CAUSAL-7", "ERR-1..3", "NUM-*", "GRAD-2..6", "PURE-*", "MEM-1", "KERN-*"),
    )
    assert {r.id for r in REQUIREMENTS.values() if "kernel" in r.kinds} == kernel
    assert {r.id for r in REQUIREMENTS.values() if "module" not in r.kinds} == named("KERN-*")


def test_flags() -> None:
    validated = named("MASK-9", "MASK-10", "CAUSAL-5", "ERR-*")
    assert {r.id for r in REQUIREMENTS.values() if r.validated} == validated
    assert {r.id: r.claimed_level for r in REQUIREMENTS.values() if r.claimed_level} == {"PURE-7": "must"}
    kernel_only_claims = [REQUIREMENTS[f"KERN-{n}"].rests_on for n in (1, 2, 3, 4)]
    assert kernel_only_claims == [("gqa",), ("scale",), ("dv",), ("lse",)]
    assert all("gradients" in REQUIREMENTS[id_].rests_on for id_ in named("GRAD-*"))


def test_what_a_kernel_is_asked_today_is_not_planned() -> None:
    now = named(
        *("OUT-3", "OUT-4", "OUT-6", "EQ-3", "EQ-5..6", "MASK-*", "CAUSAL-1..3", "CAUSAL-5", "CAUSAL-7"),
        *("ERR-*", "NUM-*", "GRAD-2..6", "PURE-*", "KERN-*"),
    )
    assert not [id_ for id_ in now if REQUIREMENTS[id_].benched]


def test_the_table_is_plain_data() -> None:
    first = load_requirements()
    assert pickle.loads(pickle.dumps(first)) == first
    assert len({hash(requirement) for requirement in first.values()}) == len(first)
    first.clear()
    assert load_requirements(), "a caller's copy is its own"


def test_groups() -> None:
    assert REQUIREMENTS["MASK-11"].group == "MASK"
    assert list(dict.fromkeys(r.group for r in REQUIREMENTS.values())) == GROUPS


def test_a_good_table_is_read() -> None:
    requirement = parse_requirements(GOOD)["MASK-1"]
    assert requirement.kinds == ("module", "kernel")
    assert (requirement.validated, requirement.benched, requirement.claimed_level) == (False, False, None)
    assert [a.verdict for a in requirement.agrees] == ["agrees", "silent", "agrees", "differs"]


def without(key: str) -> str:
    return "\n".join(line for line in GOOD.splitlines() if not line.startswith(key))


NO_AGREES = GOOD.partition("[requirement.agrees]")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace('spec = "1"', 'spec = "2"'), "spec must be '1', got '2'"),
        (without("spec"), "spec must be '1', got None"),
        (GOOD + "[extra]\nx = 1\n", "unknown keys ['extra'] beside [[requirement]]"),
        (without("id"), "a requirement: id is missing or empty"),
        (GOOD.replace("MASK-1", "mask-one"), "mask-one: an id is capitals, a dash and a number"),
        (GOOD + GOOD.partition('"1"')[2], "MASK-1: this id is used twice"),
        (GOOD.replace('"must"', '"shall"'), "MASK-1: unknown level 'shall'; known are ['must', 'should',"),
        (without("level"), "MASK-1: unknown level None"),
        (GOOD.replace('"decided"', '"rumour"'), "MASK-1: unknown source 'rumour'"),
        (without("since"), "MASK-1: since is missing or empty"),
        (GOOD.replace('"module", "kernel"', '"modul"'), "MASK-1: unknown kinds 'modul'"),
        (GOOD.replace('"module", "kernel"', ""), "MASK-1: kinds must name at least one of ['module',"),
        (GOOD.replace('["module", "kernel"]', '"kernel"'), "MASK-1: kinds must be a list"),
        (GOOD.replace('"kernel"', '"module"'), "MASK-1: kinds must be a list without repetitions"),
        (GOOD.replace("bool-mask", "telepathy"), "MASK-1: unknown rests_on 'telepathy'; known are"),
        (without("rests_on"), "MASK-1: rests_on must be a list without repetitions, got None"),
        (without("text"), "MASK-1: text is missing or empty"),
        (GOOD.replace('"True = may attend."', '" "'), "MASK-1: text is missing or empty"),
        (without("reason"), "MASK-1: what is decided needs a reason and [requirement.agrees]"),
        (NO_AGREES, "MASK-1: what is decided needs a reason and [requirement.agrees]"),
        (NO_AGREES + 'agrees = "all"\n', "MASK-1: agrees must speak of each of ['pytorch-sdpa',"),
        (without("onnx"), "MASK-1: agrees must speak of each of"),
        (GOOD.replace('"differs"', '"maybe"'), "MASK-1: agrees.nn-multiheadattention: unknown verdict"),
        (GOOD.replace("https://a", "http://a"), "MASK-1: agrees.pytorch-sdpa: link must start with https://"),
        (GOOD.replace('note = "No masks.", ', ""), "MASK-1: agrees.flash-attention: must have verdict, note"),
        (GOOD.replace('"No masks."', '""'), "MASK-1: agrees.flash-attention: note is missing or empty"),
        (GOOD.replace("since", "benched = 1\nsince"), "MASK-1: benched must be true or false, got 1"),
        (GOOD.replace("since", 'claimed_level = "high"\nsince'), "MASK-1: unknown claimed_level 'high'"),
        (GOOD.replace("since", "colour = 1\nsince"), "MASK-1: unknown keys ['colour']"),
    ],
)
def test_a_malformed_table_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_requirements(text)
