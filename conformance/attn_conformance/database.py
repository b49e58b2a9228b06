"""The database: counterexamples of earlier runs, kept as JSON files so that the next run begins with them.

A cache, for which nothing depends: where it cannot be read or written, a run goes on without it and is told why.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_conformance.files import put
from attn_conformance.results import Row
from attn_conformance.stored import Stored

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


@dataclass(frozen=True)
class Entry:
    """A counterexample, the claims under which it was found, as in a result file, and what happened."""

    stored: Stored
    claims: Mapping[str, Any]
    message: str

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives the equal one back."""
        return {**self.stored.to_json(), "claims": dict(self.claims), "message": self.message}

    @staticmethod
    def from_json(data: object) -> Entry:
        """What `to_json` wrote; ValueError for anything else."""
        if not isinstance(data, Mapping) or not isinstance(data.get("message"), str):
            raise ValueError("it lacks a case or a message")
        if not isinstance(claims := data.get("claims"), Mapping):
            raise ValueError("it lacks the claims")
        return Entry(Stored.from_json(data), claims, data["message"])


@dataclass
class Database:
    """The counterexamples under a folder, which is made when there is something to store.

    Keys are a requirement's id, a target as it is typed, and a class of devices such as "cpu" or "cuda". Processes may
    share a folder: files are replaced whole, and of two that store under one key at once the later one wins. warnings:
    what could not be read or written, each thing once, in words for people.
    """

    folder: Path = field(default_factory=default_folder)
    warnings: list[str] = field(default_factory=list)

    def shelf(self, target: str, device: str, claims: Mapping[str, Any]) -> Shelf:
        """The part that concerns one target."""
        return Shelf(self, target, device, claims)

    def entries(self, requirement: str, target: str, device: str) -> tuple[Entry, ...]:
        """What is stored under a key, the newest first."""
        key = (requirement, target, device)
        return tuple(self._entries(self._file(*key), key) or ())

    def add(self, requirement: str, target: str, device: str, entry: Entry) -> None:
        """Store an entry before the others, of which the oldest goes where there are too many."""
        key = (requirement, target, device)
        file = self._file(*key)
        entries = self._entries(file, key)
        if entries is not None:
            others = [other for other in entries if other.stored != entry.stored]
            self._store(file, key, [entry, *others][:KEPT])

    def forget(self, requirement: str, target: str, device: str, stored: Stored) -> None:
        """Remove a case, which fails no longer; nothing if it is not stored."""
        key = (requirement, target, device)
        file = self._file(*key)
        entries = self._entries(file, key) or []
        others = [entry for entry in entries if entry.stored != stored]
        if len(others) < len(entries):
            self._store(file, key, others)

    def put_script(self, requirement: str, target: str, script: str) -> Path | None:
        """Write a failure's script; its path, relative to the working directory where it is below, or None."""
        file = self.folder / "scripts" / _slug(relative(target)) / f"{requirement}.py"
        try:
            self._make_folder()
            file.parent.mkdir(parents=True, exist_ok=True)
            put(file, script)
        except (OSError, ValueError) as error:
            self._warn(f"scripts are not stored in {self.folder}: {_said(error)}")
            return None
        return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file

    def _file(self, requirement: str, target: str, device: str) -> Path:
        for name in (requirement, device):
            if not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
                raise ValueError(f"{name!r} cannot be part of a file's name")
        return self.folder / device / _slug(relative(target)) / f"{requirement}.json"

    def _entries(self, file: Path, key: tuple[str, str, str]) -> list[Entry] | None:
        """What is stored, [] where there is no file, None where there is one that is not ours."""
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
                entries.append(Entry.from_json(entry))
            except ValueError as error:  # as after a change of the suite: the others are still good
                self._warn(f"{file}: case {number} is ignored: {error}")
        return entries

    def _store(self, file: Path, key: tuple[str, str, str], entries: list[Entry]) -> None:
        names = dict(zip(("requirement", "target", "device"), _names(key), strict=True))
        cases = [entry.to_json() for entry in entries]
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


@dataclass(frozen=True)
class Shelf:
    """The part of a database that concerns one target on one class of devices, under the claims in force."""

    database: Database
    target: str
    device: str
    claims: Mapping[str, Any]

    def cases(self, requirement: str) -> tuple[Stored, ...]:
        """Those found under the same claims, the newest first: others may ask for what is not claimed now."""
        entries = self.database.entries(requirement, self.target, self.device)
        return tuple(entry.stored for entry in entries if entry.claims == self.claims)

    def add(self, requirement: str, stored: Stored, message: str) -> None:
        """Store a counterexample with what happened."""
        entry = Entry(stored, self.claims, message)
        self.database.add(requirement, self.target, self.device, entry)

    def keep(self, row: Row, healed: Iterable[Stored]) -> None:
        """Store what a row was failed by, and remove the cases that were tried for it and fail no longer."""
        for stored in healed:
            self.forget(row.requirement, stored)
        if (found := Stored.of(row)) is not None:
            self.add(row.requirement, found, row.message or "")

    def forget(self, requirement: str, stored: Stored) -> None:
        """Remove one that fails no longer."""
        self.database.forget(requirement, self.target, self.device, stored)


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
