"""Checkpoints on disk: written atomically, with a manifest that detects damaged ones.

checkpoints/step=0000500/
    state.ckpt       Lightning's checkpoint: a file, or under DeepSpeed a folder that all ranks write
    manifest.json    stage, step, world size, and size and SHA-256 of every file

A checkpoint is written under another name, synced to disk, then renamed, so that a folder with the final name was
complete when it was written; the manifest detects later damage.
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
    """Content of manifest.json."""

    stage: str
    """`mae` or `contrastive`."""
    step: int
    """Optimizer steps done."""
    world_size: int
    """Number of processes."""
    seconds: float = 0.0
    """Time of the stage so far, resumptions included."""
    metrics_bytes: int = 0
    """Length of metrics.jsonl when the checkpoint was written; later lines belong to later steps."""
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
        """File or folder that the Trainer loads."""
        return self.folder / STATE

    @property
    def is_sharded(self) -> bool:
        """Whether every rank wrote a shard, so that the same number of ranks must read it."""
        return self.state.is_dir()


def folder_name(step: int) -> str:
    """The name of a checkpoint's folder; names sort like steps below ten million."""
    return f"step={step:07d}"


def partial_folder(folder: Path, step: int) -> Path:
    """Where a checkpoint is written before it is complete."""
    return folder / f".{folder_name(step)}.partial"


def remove_partial(folder: Path) -> None:
    """Remove the leftovers of interrupted saves."""
    for leftover in folder.glob(".step=*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def seal(partial: Path, manifest: Manifest) -> Checkpoint:
    """Sync a written checkpoint to disk, add its manifest and give it its name.

    Args:
        partial: From `partial_folder`, with the state inside.
        manifest: Its `files` are filled in here.

    Raises:
        OSError: For example, the disk is full; no folder has the final name then.
    """
    final = partial.with_name(folder_name(manifest.step))
    written = sorted(one for one in partial.rglob("*") if one.is_file() and one != partial / MANIFEST)
    files = {str(file.relative_to(partial)): _record(file) for file in written}
    manifest = replace(manifest, files=files)
    with (partial / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for folder in [one for one in partial.rglob("*") if one.is_dir()] + [partial]:
        _sync(folder)
    if final.exists():  # damaged, or of steps that a resumed run repeats
        shutil.rmtree(final)
    partial.rename(final)
    _sync(final.parent)
    return Checkpoint(final, manifest)


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint with its manifest; the other files are not read.

    Raises:
        CheckpointError: The manifest is missing or damaged.
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
        CheckpointError: A file is missing or has changed since it was written.
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
    """The folders with a checkpoint's name, most steps first."""
    found = [one for one in folder.glob("step=*") if one.is_dir() and _NAME.fullmatch(one.name)]
    return sorted(found, key=lambda one: int(one.name.partition("=")[2]), reverse=True)


def newest_intact(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, and the problems of those after it; read-only, so that every rank may call it.

    Raises:
        CheckpointError: There are checkpoints, and none is intact.
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
            f"no checkpoint in {folder} is intact: {'; '.join(problems)}. Remove the folder to restart this stage"
        )
    return None, []


def readable_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    """The checkpoints with a readable manifest, newest first."""
    for one in checkpoint_folders(folder):
        try:
            yield read_checkpoint(one)
        except CheckpointError:
            continue


def best_checkpoint(folder: Path, mode: Literal["max", "min"]) -> Checkpoint | None:
    """The checkpoint with the best metric, the oldest among equals; `None`: none has a finite one."""
    metrics = [(one.manifest.metric, one) for one in readable_checkpoints(folder)]
    rated = [(metric, one) for metric, one in metrics if metric is not None and math.isfinite(metric)]
    sign = 1 if mode == "max" else -1
    return max(rated, key=lambda pair: (sign * pair[0], -pair[1].step), default=(None, None))[1]


def prune(folder: Path, keep_last: int, best: Checkpoint | None) -> None:
    """Remove all checkpoints but the last few and the best, if one is given."""
    for old in checkpoint_folders(folder)[keep_last:]:
        if best is None or old != best.folder:
            shutil.rmtree(old, ignore_errors=True)


def set_aside_after(folder: Path, step: int) -> list[Path]:
    """Rename the checkpoints of later steps, which a run resumed from `step` must not use; returns the new names."""
    later = [one for one in checkpoint_folders(folder) if int(one.name.partition("=")[2]) > step]
    aside = [one.with_name(f"abandoned-{one.name}") for one in later]
    for old, new in zip(later, aside, strict=True):
        shutil.rmtree(new, ignore_errors=True)
        old.rename(new)
    return aside


def _record(file: Path) -> dict[str, Any]:
    _sync(file)
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
