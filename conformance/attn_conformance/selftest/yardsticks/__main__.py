"""`python -m attn_conformance.selftest.yardsticks FILE.json`: judge everything by all yardsticks, and tell it.

FILE.json gets the verdicts and FILE.md the page; kills.json beside them has what this suite rejects.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from attn_conformance.files import put
from attn_conformance.report.progress import Progress
from attn_conformance.selftest.kills import Kills
from attn_conformance.selftest.table import inserted
from attn_conformance.selftest.yardsticks import compared
from attn_conformance.selftest.yardsticks.page import page, readme

BEGIN = "<!-- selftest: yardsticks -->\n"
"""What stands before the lines in README."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m attn_conformance.selftest.yardsticks", description=__doc__
    )
    parser.add_argument("file", type=Path, help="the file of verdicts")
    parser.add_argument("--jobs", type=int, default=1, help="processes that judge at once")
    parser.add_argument("--readme", type=Path, help="a Markdown file with a place for the table")
    parser.add_argument("--add", action="store_true", help="judge only targets that FILE says nothing of yet")
    parser.add_argument("--tell", action="store_true", help="judge nothing: tell what FILE says already")
    options = parser.parse_args(arguments)
    if not options.tell:
        known = compared.Compared.from_json(_read(options.file)) if options.add else None
        with Progress("yardsticks", unit="targets") as progress:
            found = compared.run(jobs=options.jobs, known=known, progress=progress)
        put(options.file, json.dumps(found.to_json(), indent=1) + "\n")
    result = compared.Compared.from_json(_read(options.file))
    kills = Kills.from_json(_read(options.file.with_name("kills.json")))
    put(options.file.with_suffix(".md"), page(result, kills))
    if options.readme is not None:
        text = options.readme.read_text(encoding="utf-8")
        put(options.readme, inserted(text, readme(result, kills), BEGIN))


def _read(path: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return data


if __name__ == "__main__":
    main()
