"""`attn-conformance explain ID`: a requirement, its source, who agrees, its check, and a failure shown live."""

from __future__ import annotations

import argparse
import inspect
import textwrap

from rich.console import Console
from rich.padding import Padding

from attn_conformance.names import suggestion
from attn_conformance.registry import checks
from attn_conformance.report.terminal import repetition, story
from attn_reference.requirements import Requirement, load_requirements

SOURCES = {
    "seed": "documented for the class that the specification started from",
    "decided": "our decision, where that documentation is silent or contradicts itself",
    "ext": "an extension beyond that documentation",
    "silent": "left open; what implementations do is recorded",
}


def command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """Print all that is known of a requirement; exit status 2 if there is none of that id."""
    identifier: str = options.id
    table = load_requirements()
    requirement = table.get(identifier.upper())
    if requirement is None:
        group = [name for name in table if name.partition("-")[0] == identifier.upper().partition("-")[0]]
        known = f"; known are: {', '.join(group or table)}"
        hint = known if group else suggestion(identifier.upper(), table) or known
        errors.print(f"there is no requirement {identifier!r}{hint}", markup=False)
        return 2

    def line(text: str, indent: int = 2) -> None:
        console.print(Padding(text, (0, 0, 0, indent)), markup=False)

    console.print(f"[bold]{requirement.id}[/] ({requirement.level}, since version {requirement.since})")
    line(requirement.text)
    line(f"source: {requirement.source}, {SOURCES[requirement.source]}")
    if requirement.reason:
        line(f"reason: {requirement.reason}")
    line(f"applies to: {', '.join(requirement.kinds)}" + _conditions(requirement))
    for agreement in requirement.agrees:
        line(f"{agreement.library} {agreement.verdict}: {agreement.note} ({agreement.link})")
    found = checks().get(requirement.id, ())
    if not found:
        line("check: none of run; it is judged by attn-conformance bench")
        return 0
    for check in found:
        home = inspect.getsourcefile(check.function) or ""
        line(f"check: {check.name} in {home[home.find('attn_conformance') :]}: {check.sentence}")
    _example(requirement, console)
    return 0


def _conditions(requirement: Requirement) -> str:
    parts = []
    if requirement.rests_on:
        parts.append(f"asked of implementations that claim {', '.join(requirement.rests_on)}")
    if requirement.validated:
        parts.append("observed for kernels that do not claim validates")
    return "".join(f"; {part}" for part in parts)


def _example(requirement: Requirement, console: Console) -> None:
    """Judge a wrong implementation that this requirement catches, and show the failure as a run shows it."""
    from attn_conformance.mutants import mutants
    from attn_conformance.runner import run
    from attn_conformance.targets import subject

    for mutant in mutants().values():
        if mutant.requirement == requirement.id:
            lie = textwrap.dedent(mutant.target.__doc__ or "").strip().splitlines()[0]
            console.print(f"\n[bold]An example of a failure[/]: mutant:{mutant.name}: {lie}", highlight=False)
            found, _ = subject(f"mutant:{mutant.name}")
            report = run(found, effort="smoke", only=(requirement.id,), explain=True)
            row = report.rows[requirement.id]
            again = repetition(f"mutant:{mutant.name}", requirement.id, report.seed, report.effort)
            story(row, requirement, console, again)
            return
