"""The database: counterexamples of earlier runs, kept as JSON files so that the next run begins with them.

A cache, for which nothing depends: where it cannot be read or written, a run goes on without it and is told why.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_conformance.cases import Case
from attn_conformance.files import put
from attn_conformance.result_file import results_of
from attn_conformance.sound import sound_case

FORMAT = 1
"""Version of the files."""

KEPT = 4
"""Cases of one key: a defect found anew gives much the same case, and each costs a call in every run."""

LARGEST = 1 << 20
"""Bytes of a file that is read: far more than the suite itself writes."""

VARIABLE = "ATTN_CONFORMANCE_DIR"
"""The environment variable that names another folder."""

README = """\
Counterexamples that attn-conformance has found here: the next run of the same target tries them first. They are JSON,
one file for each device, target and requirement, and may be deleted at any time.

The .gitignore beside this file keeps them out of version control. To share them on purpose, in continuous integration
for instance, delete it and commit the folder: it is written only together with the folder.
"""


def default_folder() -> Path:
    """Where counterexamples are kept: $ATTN_CONFORMANCE_DIR, or .attn-conformance in the working directory."""
    return Path(os.environ.get(VARIABLE) or ".attn-conformance").absolute()


@dataclass
class Database:
    """The counterexamples under a folder, which is made when there is something to store.

    Keys are a requirement's id, a target as it is typed, and a class of devices such as "cpu" or "cuda". Processes may
    share a folder: files are replaced whole, and of two that store under one key at once the later one wins. warnings:
    what could not be read or written, each thing once, in words for people.
    """

    folder: Path = field(default_factory=default_folder)
    warnings: list[str] = field(default_factory=list)

    def cases(self, requirement: str, target: str, device: str) -> tuple[Case, ...]:
        """The stored cases of a key, the one that was stored last first."""
        entries = self._entries(self._file(requirement, target, device), (requirement, target, device))
        return tuple(case for case, _ in entries or ())

    def add(self, requirement: str, target: str, device: str, case: Case, message: str) -> None:
        """Store a case with what happened, before the others, of which the oldest goes where there are too many."""
        file = self._file(requirement, target, device)
        entries = self._entries(file, (requirement, target, device))
        if entries is not None:
            others = [entry for entry in entries if entry[0] != case]
            self._store(file, (requirement, target, device), [(case, message), *others][:KEPT])

    def forget(self, requirement: str, target: str, device: str, case: Case) -> None:
        """Remove a case, which fails no longer; nothing if it is not stored."""
        file = self._file(requirement, target, device)
        entries = self._entries(file, (requirement, target, device)) or []
        others = [entry for entry in entries if entry[0] != case]
        if len(others) < len(entries):
            self._store(file, (requirement, target, device), others)

    def _file(self, requirement: str, target: str, device: str) -> Path:
        for name in (requirement, device):
            if not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
                raise ValueError(f"{name!r} cannot be part of a file's name")
        return self.folder / device / _slug(relative(target)) / f"{requirement}.json"

    def _entries(self, file: Path, key: tuple[str, str, str]) -> list[tuple[Case, str]] | None:
        """Cases with their messages, [] where there is no file, None where there is one that is not ours."""
        try:
            if not os.path.lexists(file):
                return []
            if not file.is_file() or file.stat().st_size > LARGEST:
                raise ValueError("it is no file of the database")
            data = json.loads(file.read_bytes(), parse_constant=_no_number)
            if (
                not isinstance(data, dict)
                or data.get("format") != FORMAT
                or not isinstance(data.get("cases"), list)
            ):
                raise ValueError(f"it is not in the format {FORMAT} of the database")
            if tuple(data.get(name) for name in ("requirement", "target", "device")) != _names(key):
                raise ValueError("it belongs to another target, requirement or device")
        except (OSError, ValueError, RecursionError) as error:
            self._warn(f"{file} is ignored until somebody deletes or repairs it: {_said(error)}")
            return None
        entries = []
        for number, entry in enumerate(data["cases"], 1):
            try:
                if not isinstance(entry, dict) or not isinstance(entry.get("message"), str):
                    raise ValueError("it lacks a case or a message")
                entries.append((sound_case(entry.get("case")), entry["message"]))
            except ValueError as error:  # as after a change of the suite: the others are still good
                self._warn(f"{file}: case {number} is ignored: {error}")
        return entries

    def _store(self, file: Path, key: tuple[str, str, str], entries: list[tuple[Case, str]]) -> None:
        names = dict(zip(("requirement", "target", "device"), _names(key), strict=True))
        cases = [{"case": case.to_json(), "message": message} for case, message in entries]
        try:
            if not cases:
                file.unlink(missing_ok=True)
                return
            self._make_folder()
            file.parent.mkdir(parents=True, exist_ok=True)
            put(
                file,
                json.dumps({"format": FORMAT, **names, "cases": cases}, indent=1, allow_nan=False) + "\n",
            )
        except (OSError, ValueError) as error:
            self._warn(f"counterexamples are not stored in {self.folder}: {_said(error)}")

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError:
            return  # its owner may have deleted the .gitignore, to commit the rest
        put(self.folder / "README.md", README)
        put(self.folder / ".gitignore", "*\n")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def relative(target: str) -> str:
    """A target with its file, if it is in one, relative to the working directory: the same in any checkout."""
    path, colon, rest = target.partition(":")
    return os.path.relpath(path).replace(os.sep, "/") + colon + rest if path.endswith(".py") else target


def replayable(result: object) -> dict[str, tuple[Case, ...]]:
    """The counterexamples of a parsed result file by requirement, over all its targets, each once.

    ValueError if the file or one of the counterexamples is malformed.
    """
    found: dict[str, tuple[Case, ...]] = {}
    for target, rows in results_of(result):
        for name, row in rows.items():
            if row.get("counterexample") is not None:
                try:
                    case = sound_case(row["counterexample"])
                except ValueError as error:
                    raise ValueError(
                        f"{target}: the counterexample of {name} is malformed: {error}"
                    ) from error
                found[name] = tuple(dict.fromkeys((*found.get(name, ()), case)))
    return found


def _names(key: tuple[str, str, str]) -> tuple[str, str, str]:
    requirement, target, device = key
    return requirement, relative(target), device


def _slug(target: str) -> str:
    """A folder's name that people recognise; the hash tells apart what it does not spell."""
    spelled = re.sub(r"[^A-Za-z0-9._-]+", "-", target)[-60:].strip("-.")
    return f"{spelled or 'target'}-{hashlib.sha256(target.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _said(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
