"""Checkpoints on disk: a folder that appears whole or not at all, with a manifest that tells a damaged one.

checkpoints/step=0000500/
    state.ckpt       what Lightning saves: a file, or under DeepSpeed a folder that all ranks write
    manifest.json    stage, step, world size, and size and SHA-256 of every file

A checkpoint is written under another name, synced to disk, and renamed as the last act. Whatever carries the final
name was therefore complete when it was written; the manifest tells of what happened to it since.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kelip_lightning.errors import CheckpointError

STATE, MANIFEST = "state.ckpt", "manifest.json"
_NAME = re.compile(r"step=(\d{7,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint says of itself."""

    stage: str
    """`mae` or `contrastive`."""
    step: int
    """Optimizer steps done."""
    world_size: int
    """Processes that trained together."""
    seconds: float = 0.0
    """Time of the stage so far, over all attempts of a resumed run."""
    metrics_bytes: int = 0
    """Length of metrics.jsonl when the checkpoint was written: what stands behind it came later."""
    metric: float | None = None
    """The metric by which the best checkpoint is chosen, if the model was evaluated at this step."""
    files: Mapping[str, Mapping[str, Any]]
    """Path inside the folder -> `bytes` and `sha256`."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose manifest could be read."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.manifest.step

    @property
    def state(self) -> Path:
        """What the Trainer loads."""
        return self.folder / STATE

    @property
    def is_sharded(self) -> bool:
        """Whether every rank wrote a part of its own, so that the same number of ranks must read it."""
        return self.state.is_dir()


def folder_name(step: int) -> str:
    """The name of a checkpoint's folder; names sort like steps below ten million."""
    return f"step={step:07d}"


def partial_folder(folder: Path, step: int) -> Path:
    """Where a checkpoint is written before it is complete."""
    return folder / f".{folder_name(step)}.partial"


def remove_partial(folder: Path) -> None:
    """Remove what saves that were cut off have left."""
    for leftover in folder.glob(".step=*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def seal(partial: Path, manifest: Manifest) -> Checkpoint:
    """Sync a written checkpoint to disk, add its manifest and give it its name.

    Args:
        partial: From `partial_folder`, with the state inside.
        manifest: Its `files` are filled in here.

    Raises:
        OSError: The disk is full, for example; nothing has got the final name then.
    """
    final = partial.with_name(folder_name(manifest.step))
    files = {str(file.relative_to(partial)): _record(file) for file in sorted(_files(partial))}
    manifest = replace(manifest, files=files)
    with (partial / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for folder in [one for one in partial.rglob("*") if one.is_dir()] + [partial]:
        _sync(folder)
    if final.exists():  # damaged, or of steps that a resumed run takes again
        shutil.rmtree(final)
    partial.rename(final)
    _sync(final.parent)
    return Checkpoint(final, manifest)


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint with its manifest; its files are not read.

    Raises:
        CheckpointError: It has no manifest that can be read.
    """
    file = folder / MANIFEST
    try:
        return Checkpoint(folder, Manifest(**json.loads(file.read_text(encoding="utf-8"))))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is no complete checkpoint: it has no {MANIFEST}") from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder} is damaged: its {MANIFEST} cannot be read ({error})") from error


def verify(checkpoint: Checkpoint) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: A file is missing, too short, or holds other bytes than were written.
    """
    for name, written in checkpoint.manifest.files.items():
        file = checkpoint.folder / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise CheckpointError(f"{checkpoint.folder} is damaged: {name} is missing")
        if size != written["bytes"]:
            raise CheckpointError(
                f"{checkpoint.folder} is damaged: {name} has {size:,} bytes of the {written['bytes']:,} written"
            )
        if _sha256(file) != written["sha256"]:
            raise CheckpointError(f"{checkpoint.folder} is damaged: {name} does not hold the bytes that were written")


def checkpoint_folders(folder: Path) -> list[Path]:
    """The folders that have a checkpoint's name, newest (most steps) first."""
    found = [one for one in folder.glob("step=*") if one.is_dir() and _NAME.fullmatch(one.name)]
    return sorted(found, key=lambda one: int(one.name.partition("=")[2]), reverse=True)


def newest_intact(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and why those after it are passed over.

    Only reads, so that every rank of a run may ask and gets the same answer.

    Raises:
        CheckpointError: There are checkpoints, and none of them is whole.
    """
    problems: list[str] = []
    for one in checkpoint_folders(folder):
        try:
            checkpoint = read_checkpoint(one)
            verify(checkpoint)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return checkpoint, problems
    if problems:
        raise CheckpointError(
            f"no checkpoint in {folder} is whole: {'; '.join(problems)}. To begin this stage again, remove the folder"
        )
    return None, []


def readable_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    """The checkpoints whose manifest can be read, newest first."""
    for one in checkpoint_folders(folder):
        try:
            yield read_checkpoint(one)
        except CheckpointError:
            continue


def best_checkpoint(folder: Path, mode: Literal["max", "min"]) -> Checkpoint | None:
    """The checkpoint with the best metric; the older one of two equals. None: no checkpoint has a finite one."""
    rated = [one for one in readable_checkpoints(folder) if _is_rated(one)]
    sign = 1 if mode == "max" else -1
    return max(rated, key=lambda one: (sign * (one.manifest.metric or 0.0), -one.step), default=None)


def _is_rated(checkpoint: Checkpoint) -> bool:
    metric = checkpoint.manifest.metric
    return metric is not None and math.isfinite(metric)


def prune(folder: Path, keep_last: int, best: Checkpoint | None) -> None:
    """Remove all checkpoints but the last few and the best, if one is given."""
    for old in checkpoint_folders(folder)[keep_last:]:
        if best is None or old != best.folder:
            shutil.rmtree(old, ignore_errors=True)


def set_aside_after(folder: Path, step: int) -> list[Path]:
    """Rename the checkpoints of later steps, so that a run that goes on from `step` does not take them for its own."""
    later = [one for one in checkpoint_folders(folder) if int(one.name.partition("=")[2]) > step]
    aside = [one.with_name(f"abandoned-{one.name}") for one in later]
    for old, new in zip(later, aside, strict=True):
        shutil.rmtree(new, ignore_errors=True)
        old.rename(new)
    return aside


def _files(folder: Path) -> Iterator[Path]:
    return (one for one in folder.rglob("*") if one.is_file() and one != folder / MANIFEST)


def _record(file: Path) -> dict[str, Any]:
    _sync(file)
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
