"""Which code trained a run, and whether a study may use it beside the code of now."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kelip_lightning.ablations.pool import RunState, find_run, state_of
from kelip_lightning.ablations.study import PlannedRun
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.environment import code_digest, describe_revision
from kelip_lightning.runs.folder import RunFolder

ANY = "any"
"""Accepts every revision."""
_SHOWN, _LEAST = 10, 7
"""Digits of a commit in a message, and the fewest that name one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A state of the code."""

    commit: str | None
    """Of git; none: unknown."""
    is_dirty: bool
    """Whether tracked files differed from the commit."""
    code: str | None
    """Digest of the code itself; none: a run of before it was recorded."""

    @classmethod
    def of(cls, environment: Mapping[str, Any]) -> Self:
        """That of a record of `describe_environment`."""
        git = environment.get("git") or {}
        return cls(commit=git.get("revision"), is_dirty=bool(git.get("dirty")), code=environment.get("code"))

    @classmethod
    def of_now(cls) -> Self:
        """That of the code that runs."""
        return cls.of({"git": describe_revision(), "code": code_digest()})

    def is_same_code(self, other: Self) -> bool:
        """Whether both are known to compute the same; commits that differ in documents alone are."""
        return self.code is not None and self.code == other.code

    def is_named(self, name: str) -> bool:
        """Whether `--accept-revision` means this one: as shown, its code, or digits of a clean commit."""
        if name in (ANY, str(self)) or (self.code is not None and name == self.code):
            return True
        return not self.is_dirty and len(name) >= _LEAST and (self.commit or "").startswith(name)

    @property
    def in_full(self) -> str:
        """With the digest of the code, which tells two states of one commit apart."""
        text = str(self)
        return f"{text} (code {self.code})" if self.code and self.code not in text else text

    def __str__(self) -> str:
        """The commit; with changes, or without git, also the digest of the code."""
        commit = self.commit[:_SHOWN] if self.commit else "unknown"
        if self.commit and not self.is_dirty:
            return commit
        return f"{commit}{'+changes' if self.is_dirty else ''}{f'.{self.code}' if self.code else ''}"


def revisions_of(folder: RunFolder) -> list[Revision]:
    """The revisions that trained a run, that which began it first; an unknown one where nothing is recorded."""
    found = [Revision.of(one) for one in _environments(folder)]
    return list(dict.fromkeys(found)) or [Revision(commit=None, is_dirty=False, code=None)]


def _environments(folder: RunFolder) -> Iterator[Mapping[str, Any]]:
    try:
        yield json.loads(folder.environment.read_text(encoding="utf-8"))
        resumptions = folder.resumes.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    # Only whole lines, which end with a newline.
    yield from (json.loads(line).get("environment") or {} for line in resumptions.split("\n")[:-1])


def refuse_other_revisions(pool: Path, runs: Sequence[PlannedRun], accepted: Sequence[str]) -> None:
    """Runs that another revision of the code trained, or began, are another experiment's unless somebody says not.

    Args:
        pool: Where runs are.
        runs: That are about to be used, or gone on with.
        accepted: Revisions that the user accepts, as a refusal shows them, by their code, or by digits of a commit; or
            `any`.

    Raises:
        RunFolderError: A run is of another revision; names both.
    """
    now = Revision.of_now()
    others: dict[Revision, list[str]] = {}
    for run in runs:
        folder = find_run(pool, run)
        if state_of(folder) is RunState.missing:
            continue
        for one in revisions_of(folder):
            if not one.is_same_code(now) and not any(one.is_named(name) for name in accepted):
                others.setdefault(one, []).append(folder.name)
    if others:
        told = "; ".join(f"{_named(names)} by {one.in_full}" for one, names in others.items())
        options = " ".join(f"--accept-revision {one}" for one in others)
        raise RunFolderError(
            f"runs in {pool} were trained by another revision of the code ({told}), and this is {now.in_full}; if the "
            f"difference does not matter, accept them with {options}, or train anew with --output FOLDER"
        )


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
