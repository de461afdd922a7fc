"""Checkpoints on disk: written atomically; damaged ones are detected."""

import os
from pathlib import Path

import pytest

from kelip_lightning.errors import CheckpointError
from kelip_lightning.runs import checkpoints
from kelip_lightning.runs.checkpoints import Checkpoint, Manifest


def write(folder: Path, step: int, metric: float | None = None, content: bytes = b"0123456789") -> Checkpoint:
    partial = checkpoints.partial_folder(folder, step)
    (partial / "state.ckpt").mkdir(parents=True)
    (partial / "state.ckpt" / "rank0").write_bytes(content)
    return checkpoints.seal(partial, Manifest(stage="mae", step=step, world_size=1, metric=metric, files={}))


def test_seal__one_folder_with_the_checksums_of_all_files(tmp_path: Path) -> None:
    sealed = write(tmp_path, 5)
    assert [one.name for one in tmp_path.iterdir()] == ["step=0000005"]
    read = checkpoints.read_checkpoint(sealed.folder)
    assert read == sealed
    # sha256sum of 0123456789
    expected = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    assert read.manifest.files == {"state.ckpt/rank0": {"bytes": 10, "sha256": expected}}
    assert read.is_sharded
    checkpoints.verify(read)


def test_seal__replaces_a_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    write(tmp_path, 5)
    sealed = write(tmp_path, 5, content=b"new")
    assert (sealed.state / "rank0").read_bytes() == b"new"
    checkpoints.verify(sealed)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"01234", "has 5 bytes of the 10 written"), (b"0123456780", "does not hold the bytes"), (None, "is missing")],
)
def test_newest_intact__passes_over_a_damaged_one(tmp_path: Path, content: bytes | None, expected: str) -> None:
    older, newest = write(tmp_path, 5), write(tmp_path, 10)
    file = newest.state / "rank0"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    found, problems = checkpoints.newest_intact(tmp_path)
    assert found == older
    assert len(problems) == 1
    assert expected in problems[0]


def test_newest_intact__a_manifest_that_is_torn_or_gone(tmp_path: Path) -> None:
    write(tmp_path, 5)
    for step in (10, 15):
        write(tmp_path, step)
    os.truncate(tmp_path / "step=0000010" / "manifest.json", 20)
    (tmp_path / "step=0000015" / "manifest.json").unlink()
    found, problems = checkpoints.newest_intact(tmp_path)
    assert found is not None
    assert found.step == 5
    assert ["no complete checkpoint" in problems[0], "cannot be read" in problems[1]] == [True, True]


def test_newest_intact__none_at_all_and_none_intact(tmp_path: Path) -> None:
    assert checkpoints.newest_intact(tmp_path) == (None, [])
    (checkpoints.partial_folder(tmp_path, 5)).mkdir()
    assert checkpoints.newest_intact(tmp_path) == (None, [])
    (write(tmp_path, 5).folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact"):
        checkpoints.newest_intact(tmp_path)


def test_best_checkpoint__and_prune(tmp_path: Path) -> None:
    for step, metric in ((1, 0.2), (2, 0.9), (3, 0.9), (4, float("nan")), (5, None), (6, 0.1)):
        write(tmp_path, step, metric)
    best, worst = (checkpoints.best_checkpoint(tmp_path, mode) for mode in ("max", "min"))  # type: ignore[arg-type]
    assert best is not None
    assert worst is not None
    assert (best.step, worst.step) == (2, 6)
    checkpoints.prune(tmp_path, 2, best)
    assert [one.name for one in checkpoints.checkpoint_folders(tmp_path)] == [
        "step=0000006",
        "step=0000005",
        "step=0000002",
    ]
    checkpoints.prune(tmp_path, 1, None)
    assert [one.name for one in checkpoints.checkpoint_folders(tmp_path)] == ["step=0000006"]


def test_set_aside_after__later_ones_no_longer_count(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step)
    aside = checkpoints.set_aside_after(tmp_path, 1)
    assert sorted(one.name for one in aside) == ["abandoned-step=0000002", "abandoned-step=0000003"]
    assert [one.name for one in checkpoints.checkpoint_folders(tmp_path)] == ["step=0000001"]
    assert all((one / "manifest.json").is_file() for one in aside)
