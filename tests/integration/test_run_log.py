"""A run whose output is a file, as under Slurm: what it prints, and log.txt."""

import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from kelip_lightning.cli import main
from tests.faults.experiment import BATCH, CONTRASTIVE_STEPS, EVALUATE_EVERY, MAE_STEPS, write_experiment

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run, and the lines of its stdout, with a progress line at every step."""
    folder = tmp_path_factory.mktemp("run")
    command = ["pretrain", str(write_experiment(folder)), f"output_dir={folder}", "trainer.progress_every_minutes=1e-6"]
    with (folder / "out").open("w", encoding="utf-8") as file, redirect_stdout(file):
        assert main(command) == 0
    return folder / "tiny", (folder / "out").read_text(encoding="utf-8").splitlines()


def test_output__is_readable_as_a_file(printed: tuple[Path, list[str]]) -> None:
    text = "\n".join(printed[1])
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text), "no control characters"
    assert max(map(len, printed[1])) <= 200
    assert "Lightning" not in text
    assert "lightning.ai" not in text


def test_output__progress_of_both_stages_and_every_evaluation(printed: tuple[Path, list[str]]) -> None:
    lines = [line[21:] for line in printed[1] if re.match(TIME, line)]
    assert lines[0] == f"mae begins: {MAE_STEPS} steps of {BATCH} images"
    assert f"contrastive begins: {CONTRASTIVE_STEPS} steps of {BATCH} pairs" in lines
    last = [line for line in lines if line.startswith(f"mae step {MAE_STEPS}/{MAE_STEPS} (100%)  48 images  loss ")]
    assert last
    assert "accuracy" not in last[0]
    steps = {line.partition("/")[0] for line in lines}
    assert {f"contrastive step {step}" for step in range(1, CONTRASTIVE_STEPS + 1)} <= steps
    number = r"[\d.]+"
    assert re.match(
        rf"contrastive step \d+/14 \(\d+%\)  \d+ pairs  loss {number}  accuracy ko ({number}%|–) en ({number}%|–)  "
        rf"lr {number}e-\d+  {number} pairs/s  data wait \d+%  memory {number} GiB  left \d:\d\d:\d\d",
        next(line for line in reversed(lines) if "(100%)" in line),
    )
    evaluations = [found for line in lines if (found := re.match(r"contrastive step (\d+)/14  evaluation", line))]
    assert [int(found[1]) for found in evaluations] == [*range(0, CONTRASTIVE_STEPS, EVALUATE_EVERY), CONTRASTIVE_STEPS]
    assert re.search(rf"evaluation, ko/en in %: all R@1 {number}/{number}$", evaluations[-1].string)


def test_log_file__has_the_same_lines(printed: tuple[Path, list[str]]) -> None:
    run, lines = printed
    log = (run / "log.txt").read_text(encoding="utf-8").splitlines()
    shown = [line for line in lines if re.match(TIME, line)]
    assert [
        line.replace("INFO     ", "") for line in log if re.match(rf"{TIME}INFO     (mae|contrastive) ", line)
    ] == shown
    assert any("image encoder from" in line for line in log), "messages of stderr, too"
