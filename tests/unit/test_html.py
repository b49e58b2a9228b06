from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from attn_conformance.report import html
from attn_conformance.report.entries import GROUPS
from attn_conformance.report.html import MISSING, run_page, write_report
from attn_conformance.report.views import views
from attn_conformance.results import NOT_ASKED
from attn_conformance.standing import BACK
from attn_reference.requirements import load_requirements

BASELINES = Path(__file__).parents[2] / "docs" / "baselines"
REAL: dict[str, Any] = json.loads((BASELINES / "attn-flash-kernel-h100.json").read_text(encoding="utf-8"))
MADE = REAL["environment"]["date"][:16].replace("T", " ") + " UTC"
MODULE: dict[str, Any] = json.loads((BASELINES / "attn-flash-h100.json").read_text(encoding="utf-8"))

CASE = {
    "kind": "kernel", "batch": 2, "heads": 2, "kv_heads": 2, "queries": 2, "keys": 3, "head_size": 4, "value_size": 4,
    "dtype": "float32", "values": "normal", "seed": 7,
}  # fmt: skip
MESSAGE = "differs from the reference: 32 of 32 elements out of bound\nfirst [0, 0, 0, 0]\nworst [0, 1, 0, 0]"
CELL = {"device": "cuda", "dtype": "float32", "kernel": None, "status": "failed"}
FAILED = {"status": "failed", "message": MESSAGE, "counterexample": CASE, "examples": 3}

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}{% raw %}",
    "javascript:alert(1)",
    "</style></script></pre><svg/onload=alert(1)>",
    "<!-- --!> <![CDATA[ &lt;b&gt; &#60;",
]


def result(target: str | None = None, of: dict[str, Any] = REAL, **rows: dict[str, Any]) -> dict[str, Any]:
    """A real result file under another name, with some of its rows changed: MASK_1={"status": ...}."""
    data = copy.deepcopy(of)
    (judged,) = data["results"]
    judged["target"] = target or judged["target"]
    for name, changes in rows.items():
        judged["requirements"][name.replace("_", "-")].update(changes)
    return data


class Page(HTMLParser):
    """A parsed page: its elements, its visible text, and the text below each id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.below: dict[str, str] = {"": ""}
        self.stack: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("dt", "dd", "th", "td"):
            self.handle_data(" ")  # as wide as the gap that is seen there
        if tag not in ("meta", "input"):
            self.stack.append((tag, dict(attrs).get("id")))
        if (name := dict(attrs).get("id")) is not None:
            assert name not in self.below, f"twice: {name}"
            self.below[name] = ""

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for name in {"", *(name for _, name in self.stack if name is not None)}:
            self.below[name] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def words(self, name: str = "") -> str:
        return " ".join(self.below[name].split())


def test_a_page_says_what_was_judged_and_how() -> None:
    page = Page(run_page([REAL]))
    assert page.all("html") == [{"lang": "en"}]
    assert page.words("top") == "attn-flash-kernel"
    text = page.words()
    assert "✓ conforms 34 of 35 must-requirements judged; 43 passed, 3 observed, 1 skipped." in text
    assert f"Effort default, seed 0, {MADE}." in text
    assert "NVIDIA H100 80GB HBM3" in text
    assert "not claimed: lse KERN-4" in text
    for name, row in REAL["results"][0]["requirements"].items():
        benched = name == "PERF-1"
        assert (name in page.below) == (not benched)
        if not benched:
            assert f"{row['level']}" in page.words(name)
    assert page.words("MASK-1").startswith("MASK-1 must ✓ passed 150")


def test_a_failure_is_told_with_its_case_its_cause_its_script_and_the_way_to_it() -> None:
    script = "import numpy as np\nif 1 < 2 & 3:\n    print('<b>')\n"
    extra = {"cause": "the mask is inverted", "reproducer": script, "cells": [CELL]}
    page = Page(run_page([result("my.py:fn", MASK_1={**FAILED, **extra})]))
    told = page.words("MASK-1-more")
    assert load_requirements()["MASK-1"].text in told
    assert "B=2 H=2 T=2 S=3 D=4 float32, normal values, seed 7" in told
    assert MESSAGE in page.below["MASK-1-more"]
    assert "Likely cause the mask is inverted" in told
    assert "cuda float32 failed; found after 3 examples" in told
    assert page.below["MASK-1-again"] == (
        "attn-conformance run my.py:fn --only MASK-1 --seed 0 --device cuda"
    )
    assert page.below["MASK-1-script"] == "\n" + script  # the first line break is no part of it
    assert {"MASK-1-again", "MASK-1-script"} == {button["data-copies"] for button in page.all("button")}
    assert all("hidden" in button for button in page.all("button"))
    assert {"href": "#MASK-1-more", "class": "badge bad"} in page.all("a")


def test_failures_stand_in_the_order_in_which_they_lead_to_the_mistake() -> None:
    allowed = {
        **FAILED,
        "message": f"{MESSAGE}\nwithin the bound of eager arithmetic, which --with eager claims",
    }
    failures = {"EQ_3": allowed, "MASK_1": FAILED, "CAUSAL_2": {**FAILED, "cause": "every key is seen"}}
    (view,) = views([result(**failures, NUM_4=FAILED)])
    assert [entry.id for entry in view.failures] == ["CAUSAL-2", "MASK-1", "EQ-3", "NUM-4"]


def test_a_page_says_that_a_run_was_interrupted() -> None:
    data = result()
    data["results"][0]["interrupted"] = True
    assert "conforms, interrupted" in Page(run_page([data])).words()


def test_what_failed_differs_by_what_it_means() -> None:
    rows: dict[str, dict[str, Any]] = {
        "MASK_1": FAILED,
        "NUM_4": FAILED,
        "MASK_2": {**FAILED, "expected": True, "message": f"expected to fail: known, see #12\n{MESSAGE}"},
        "MASK_3": {"status": "failed", "message": "passed, though it was expected to fail: known"},
        "CAUSAL_3": {"declared": "top left (https://example.org/a?b=1&c=2)"},
        "MASK_4": {"status": "error", "message": "the suite itself failed"},
        "MASK_5": {"status": "skipped", "message": BACK.format("MASK-1")},
    }
    page = Page(run_page([result(**rows)]))
    for name, words in {
        "MASK-1": "must ✗ failed",
        "NUM-4": "should ✗ should failed",
        "MASK-2": "must (✗) expected",
        "MASK-3": "must ✗ unexpected pass",
        "CAUSAL-3": "must ≠ documented",
        "MASK-4": "must ! error",
        "MASK-5": "must ✗ stands back",
    }.items():
        assert page.words(name).startswith(f"{name} {words}")
    assert "Why it is expected known, see #12 Smallest case" in page.words("MASK-2-more")
    assert "expected to fail" not in page.words("MASK-2-more")
    assert "Here: top left" in page.words("CAUSAL-3-more")
    assert "https://example.org/a?b=1&c=2" in {link["href"] for link in page.all("a")}
    assert BACK.format("MASK-1") in page.words("MASK-5")
    assert "#MASK-1-more" in {link["href"] for link in page.all("a")}
    shown = [radio["value"] for radio in page.all("input")]
    assert shown == ["all", *html.MARKS]
    counted = (
        "1 must failed, 1 unexpected pass, 1 should failed, 1 failed as expected, 1 differ as documented, "
        "1 error"
    )
    assert counted in page.words()


def test_every_mark_can_be_filtered() -> None:
    style = html._asset("page.css")
    for mark in html.MARKS:
        assert style.count(f"[value={mark}]:checked) tr[data-mark]:not([data-mark={mark}])") == 1
        assert style.count(f"[value={mark}]:checked) tbody:not(:has([data-mark={mark}]))") == 1


def test_situations_that_never_occurred_are_a_defect_only_of_a_whole_run() -> None:
    data = result()
    assert "never occurred" not in run_page([data])
    data["results"][0]["events"]["odd head size"] = 0
    assert "A defect of the suite" in run_page([data])
    assert "A defect of the suite" not in run_page([data | {"effort": "smoke"}])
    data["results"][0]["requirements"]["MASK-1"].update(status="skipped", message=NOT_ASKED)
    page = Page(run_page([data]))
    assert "A defect of the suite" not in page.words()
    assert "odd head size" in page.words()
    assert "MASK-1" not in page.below


def test_a_case_of_another_version_is_shown_as_it_stands() -> None:
    for case in ({"kind": "varlen", "seed": 3}, {"kind": "script", "steps": [{"act": 7}]}, {"kind": []}):
        page = Page(run_page([result(MASK_1={**FAILED, "counterexample": case})]))
        assert json.dumps(case) in page.below["MASK-1-more"]


def test_a_requirement_that_this_version_does_not_know_is_shown() -> None:
    data = result()
    data["results"][0]["requirements"]['NEW "7"'] = data["results"][0]["requirements"]["MASK-1"]
    page = Page(run_page([data]))
    (row,) = [name for name in page.below if name.startswith("row-")]
    assert page.words(row).startswith('NEW "7" must ✓ passed')


def test_several_are_a_matrix_whose_cells_lead_to_their_pages(tmp_path: Path) -> None:
    results = [result("zeta", MASK_1=FAILED), result("Alpha", of=MODULE), result("../beta/../../x y")]
    index = write_report(results, tmp_path / "made" / "here")
    assert index == tmp_path / "made" / "here" / "index.html"
    assert {path.name for path in index.parent.iterdir()} == {
        "index.html", "alpha.html", "beta-x-y.html", "zeta.html",
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"made"}
    pages = {path.name: Page(path.read_text(encoding="utf-8")) for path in index.parent.iterdir()}
    text = pages["index.html"].words()
    assert text.index("../beta/../../x y") < text.index("Alpha") < text.index("zeta")
    assert "Verdict ✓ conforms ✓ conforms ✓ conforms Musts judged 34 of 35 48 of 48 34 of 35" in text
    assert "MASK-1 must In a boolean mask True means that the query may attend to the key. ✓ passed" in text
    assert (
        "CTOR-1 must An n_head that does not divide n_state raises ValueError at construction. · n/a ✓ passed · n/a"
        in text
    )
    links = {str(link["href"]) for page in pages.values() for link in page.all("a")}
    assert {"zeta.html#MASK-1-more", "alpha.html#CTOR-1", "alpha.html#left-out"} <= links
    for name, page in pages.items():
        for link in page.all("a"):
            file, _, anchor = str(link["href"]).partition("#")
            assert not anchor or anchor in pages[file or name].below, link


def test_several_on_one_page_do_not_mix_their_anchors() -> None:
    page = Page(run_page([result("b", MASK_1=FAILED), result("a", of=MODULE)]))
    assert page.words("i1-top") == "a"
    assert page.words("i2-MASK-1-again") == "attn-conformance run b --only MASK-1 --seed 0 --device cuda"
    for link in page.all("a"):
        assert str(link["href"])[1:] in page.below
    scopes = {cell.get("scope") for cell in page.all("th")}
    assert scopes == {"col", "row", "rowgroup"}
    assert len(page.all("caption")) == len(page.all("table"))


def test_runs_of_one_target_are_told_apart() -> None:
    newer = result()
    newer["environment"] |= {"torch": "3.0.0", "date": "2027-01-31T08:00:00+00:00"}
    labels = [view.label for view in views([newer, result("other"), result()])]
    assert labels == [
        f"attn-flash-kernel (torch 2.11.0, {MADE})",
        "attn-flash-kernel (torch 3.0.0, 2027-01-31 08:00 UTC)",
        "other",
    ]
    assert [view.qualifier for view in views([REAL, REAL])] == ["run 1", "run 2"]


@pytest.mark.parametrize("text", [*HOSTILE, "left\u202eright\x00\x1b[31m\ud800\u2028", "x" * 100_000])
def test_texts_of_a_result_stay_texts(tmp_path: Path, text: str) -> None:
    rows = {**FAILED, "message": text, "reproducer": text, "cause": text, "cells": [{**CELL, "dtype": text}]}
    expected = {**rows, "expected": True, "message": f"expected to fail: {text}\n{text}"}
    data = result(text, MASK_1=rows, MASK_2=expected, CAUSAL_3={"declared": text},
                  MASK_11={"observation": text}, KERN_4={"message": text})  # fmt: skip
    data["environment"][text] = data["suite"] = text
    data["results"][0]["events"] = {text: 0}
    data["results"][0]["requirements"][text] = data["results"][0]["requirements"]["MASK-3"]
    write_report([data, result()], tmp_path)
    plain = Page(run_page([result()]))
    shown = "left\\u202eright\\x00\\x1b[31m\\ud800\\u2028" if "\x00" in text else text
    for source in (run_page([data]), *(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())):
        page = Page(source)
        assert {name for name, _ in page.elements} <= {*(name for name, _ in plain.elements), "pre", "article",
                                                       "button", "small", "summary", "details", "h3", "h4"}  # fmt: skip
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        assert all(re.match(r"#|[a-z0-9-]+\.html", str(link["href"])) for link in page.all("a"))
        assert len(page.all("script")) == len(page.all("style")) == 1
        assert not set("\x00\x1b\u202e\u2028") & set(source)
    page = Page(run_page([data]))
    for place in (
        "top",
        "MASK-1-more",
        "MASK-1-script",
        "MASK-2-more",
        "CAUSAL-3-more",
        "MASK-11-more",
        "KERN-4",
    ):
        assert shown in page.below[place]
    assert page.below["MASK-1-again"].startswith("attn-conformance run ")


def test_a_command_quotes_its_target() -> None:
    page = Page(run_page([result("a.py:f; rm -rf ~", MASK_1=FAILED)]))
    assert page.below["MASK-1-again"].startswith("attn-conformance run 'a.py:f; rm -rf ~' --only MASK-1")


def test_the_policy_allows_our_style_and_our_script_and_nothing_else() -> None:
    source = run_page([REAL])
    (policy,) = [
        m["content"] for m in Page(source).all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    ]
    allowed = []
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed.append(f"{tag}-src 'sha256-{digest}'")
    assert policy == "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])
    assert not re.search(r"url\(|@import|src=", source)


def test_every_group_of_the_specification_has_a_title() -> None:
    assert {requirement.group for requirement in load_requirements().values()} == set(GROUPS)


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    for report in (run_page, lambda results: write_report(results, tmp_path / "pages")):
        with pytest.raises(ValueError, match="hold no result"):
            report([{**REAL, "results": []}])
    assert not list(tmp_path.iterdir())


def test_without_jinja_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    html._templates.cache_clear()
    with pytest.raises(
        ModuleNotFoundError, match=re.escape("pip install 'attn-conformance[report]'")
    ) as raised:
        write_report([REAL], tmp_path / "pages")
    assert str(raised.value) == MISSING
    assert not list(tmp_path.iterdir())
