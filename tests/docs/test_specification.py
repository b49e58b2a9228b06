"""SPECIFICATION.md says what requirements.toml says, its snippets run, and its links lead somewhere."""

from __future__ import annotations

import re
from importlib.resources import files

from attn_reference.requirements import Requirement, load_requirements

REQUIREMENTS = load_requirements()
RESOURCE = files("attn_reference").joinpath("SPECIFICATION.md")
SPECIFICATION = RESOURCE.read_text(encoding="utf-8")
ROW = re.compile(r'^\| <a id="([A-Z]+-\d+)"></a>(\*?)(\S+?)\*? \| (.+?) \| (\w+) \| (\w+) \| (.+) \|$', re.M)
NAMES = {
    "pytorch-sdpa": "PyTorch SDPA",
    "flash-attention": "FlashAttention",
    "onnx-attention": "ONNX Attention",
    "nn-multiheadattention": "nn.MultiheadAttention",
}


def one_line(text: str) -> str:
    return " ".join(text.split())


def level(requirement: Requirement) -> str:
    """How the column `level` puts it."""
    if requirement.claimed_level:
        return f"{requirement.level}; {requirement.claimed_level} if claimed"
    if requirement.group == "KERN":
        return f"{requirement.level} if claimed"
    return f"{requirement.level} ᵛ" if requirement.validated else requirement.level


def test_each_requirement_has_its_row_in_order() -> None:
    assert [match[1] for match in ROW.finditer(SPECIFICATION)] == list(REQUIREMENTS)


def test_rows_say_what_the_table_says() -> None:
    for anchor, star, shown, level_, source, for_, text in ROW.findall(SPECIFICATION):
        requirement = REQUIREMENTS[anchor]
        assert shown == anchor
        assert bool(star) == requirement.benched, anchor
        assert level_ == level(requirement), anchor
        assert source == requirement.source, anchor
        assert for_ == ("both" if len(requirement.kinds) == 2 else requirement.kinds[0]), anchor
        assert text.replace("\\|", "|") == requirement.text, anchor


def test_every_id_that_is_mentioned_exists() -> None:
    assert set(re.findall(r"\b[A-Z]{2,}-\d+\b", SPECIFICATION)) == REQUIREMENTS.keys()


def test_reasons_stand_below_their_tables() -> None:
    prose = one_line(SPECIFICATION)
    for requirement in REQUIREMENTS.values():
        if requirement.reason:
            assert f"- *{requirement.id}.* {one_line(requirement.reason)}" in prose, requirement.id


def test_contested_requirements_are_those_from_which_a_library_differs() -> None:
    contested = [
        f"{requirement.id} ({', '.join(differing)})"
        for requirement in REQUIREMENTS.values()
        if (differing := [NAMES[a.library] for a in requirement.agrees if a.verdict == "differs"])
    ]
    assert one_line("; ".join(contested)) in one_line(SPECIFICATION)


def test_links_inside_the_document_have_a_target() -> None:
    targets = set(re.findall(r'<a id="([^"]+)">', SPECIFICATION))
    assert set(re.findall(r"\]\(#([^)]+)\)", SPECIFICATION)) <= targets


def test_sections_are_numbered_without_gaps_and_references_exist() -> None:
    numbers = [int(n) for n in re.findall(r"^## (\d+)\. ", SPECIFICATION, re.M)]
    assert numbers == list(range(len(numbers)))
    texts = SPECIFICATION + "".join(r.text + r.reason for r in REQUIREMENTS.values())
    assert {int(n) for n in re.findall(r"[Ss]ection\s+(\d+)", texts)} <= set(numbers)


def test_snippets_run_in_order() -> None:
    snippets = list(re.finditer(r"^```python\n(.*?)^```$", SPECIFICATION, re.M | re.S))
    assert len(snippets) == SPECIFICATION.count("```") // 2 >= 4
    namespace: dict[str, object] = {}
    for snippet in snippets:
        above = "\n" * SPECIFICATION.count("\n", 0, snippet.start(1))  # errors then show the document's lines
        exec(compile(above + snippet[1], str(RESOURCE), "exec"), namespace)
