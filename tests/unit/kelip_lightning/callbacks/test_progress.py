"""Progress lines on a fake clock, the line of an evaluation, and the bar."""

import io
import logging
import re
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from kelip_lightning.callbacks.monitoring import ThroughputCallback
from kelip_lightning.callbacks.progress import PairProgressBar, ProgressLog, bar_on_terminal, in_short
from kelip_lightning.evaluation.suite import Evaluation
from kelip_lightning.runs.log_file import PROGRESS

Fit = Callable[..., tuple[pl.Trainer, Any]]
MINUTE = 60.0


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _log(clock: _Clock, interval: float = MINUTE) -> ProgressLog:
    return ProgressLog("contrastive", global_batch_size=4, interval_seconds=interval, clock=clock)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The progress lines so far."""
    monkeypatch.setattr(logging.getLogger(PROGRESS), "propagate", True)
    caplog.set_level(logging.INFO, logger=PROGRESS)
    return lambda: [record.getMessage() for record in caplog.records if record.name == PROGRESS]


def test_lines__once_a_minute_and_at_both_ends(fit: Fit, lines: Callable[[], list[str]]) -> None:
    clock = _Clock()

    def take_25_seconds() -> None:
        clock.now += 25

    fit([_log(clock)], steps=8, in_step=take_25_seconds)
    steps = [int(found[1]) for one in lines() if (found := re.match(r"contrastive step (\d+)/8 ", one))]
    # 25, 50, 75 s: the third step is the first to end after a minute.
    assert steps == [3, 6, 8]
    assert lines()[0] == "contrastive begins: 8 steps of 4 pairs"


def test_lines__every_part(fit: Fit, lines: Callable[[], list[str]]) -> None:
    clock = _Clock()

    def take_a_minute() -> None:
        clock.now += 60

    throughput = ThroughputCallback()
    _, module = fit([throughput, _log(clock, interval=150), throughput.last], steps=8, in_step=take_a_minute)
    assert module.stage_name == "contrastive"
    # After 3 of 8 steps of a minute each, of which every second one is logged.
    number = r"[\d.,]+"
    pattern = (
        rf"contrastive step 3/8 \(38%\)  12 pairs  loss {number}  accuracy ko 25.0% en 50.0%  lr –  {number} pairs/s  "
        rf"data wait \d+%  memory {number} GiB  left 0:05:00"
    )
    assert re.fullmatch(pattern, lines()[1]), lines()[1]


def test_lines__before_a_step_is_logged_and_while_a_step_takes_long(fit: Fit, lines: Callable[[], list[str]]) -> None:
    clock = _Clock()
    progress = _log(clock)

    def wait() -> None:
        clock.now += 61
        progress.write_if_due()  # as the thread does
        progress.write_if_due()

    fit([progress], steps=2, in_step=wait)
    assert [re.match(r"contrastive step (\d)", one)[1] for one in lines()[1:]] == ["0", "1", "2"]  # type: ignore[index]
    assert lines()[1].endswith("  0 pairs  no step logged yet  left –")
    assert "  loss " in lines()[-1]


def test_lines__a_thread_writes_them_while_nothing_else_does(fit: Fit, lines: Callable[[], list[str]]) -> None:
    import time

    progress = ProgressLog("mae", global_batch_size=4, interval_seconds=0.04)
    fit([progress], steps=1, in_step=lambda: time.sleep(0.4))
    waiting = [one for one in lines() if one.startswith("mae step 0/1 ")]
    assert len(waiting) >= 3
    assert "accuracy" not in waiting[0], "images have no captions"
    assert "4 images" in lines()[-1]
    number = len(lines())
    time.sleep(0.1)
    assert len(lines()) == number, "it ends with the stage"


def test_lines__none_on_other_ranks(lines: Callable[[], list[str]]) -> None:
    class OtherRank:
        is_global_zero, global_step, max_steps = False, 0, 1

    progress: Any = _log(_Clock())
    for hook in (progress.on_train_start, progress.on_train_batch_end, progress.on_train_end):
        hook(OtherRank(), None)
    assert lines() == []


def test_evaluation__a_line_of_the_step_and_one_of_both_languages(fit: Fit, lines: Callable[[], list[str]]) -> None:
    progress = _log(_Clock())
    metrics = {"eval/a_ko/image_to_text_R@1": 0.25, "eval/a_en/image_to_text_R@1": 0.5}

    class Evaluate(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            progress.on_evaluation(trainer, trainer.global_step, Evaluation(metrics=metrics))

    fit([progress, Evaluate()], steps=2)
    assert [one.partition("  ")[0] for one in lines()[1:]] == [
        "contrastive step 1/2 (50%)", "contrastive step 1/2", "contrastive step 2/2 (100%)", "contrastive step 2/2",
    ]  # fmt: skip
    assert lines()[2].endswith("evaluation, ko/en in %: a R@1 25.0/50.0")


def test_in_short__one_number_a_language_and_set() -> None:
    metrics = {
        "eval/photos_ko/image_to_text_R@1": 0.216,
        "eval/photos_ko/image_to_text_R@5": 0.4,
        "eval/photos_en/image_to_text_R@1": 0.2104,
        "eval/names/ko_to_en_R@1": 0.727,
        "eval/names/ko_to_en_centred_R@1": 0.9,
        "eval/names/en_to_ko_R@1": 0.717,
        "eval/birds_en/zero_shot_top1": 1.0,
        "eval/birds_en/mean_per_class_recall": 0.5,
        "eval/quiz/choice_top1": 0.333,
    }
    assert in_short(metrics) == (
        "evaluation, ko/en in %: photos R@1 21.6/21.0, names caption R@1 72.7/71.7, birds top-1 –/100.0, "
        "quiz top-1 33.3"
    )


def test_in_short__many_sets() -> None:
    metrics = {f"eval/set{number}_ko/zero_shot_top1": 0.5 for number in range(11)}
    assert in_short(metrics).endswith("set7 top-1 50.0/–, and 3 more sets")


def _drawn(bar: RichProgressBar) -> str:
    assert bar.progress is not None
    console = Console(file=io.StringIO(), width=160)
    console.print(bar.progress.make_tasks_table(bar.progress.tasks))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_pair_progress_bar__stage_steps_and_metrics(fit: Fit) -> None:
    bar = PairProgressBar("contrastive")
    fit([ThroughputCallback(), bar], steps=3, enable_progress_bar=True)
    assert bar.progress is not None
    task = bar.progress.tasks[0]
    assert (task.description, task.total, task.completed) == ("contrastive", 3, 3)
    metrics = bar.get_metrics(bar.trainer, bar.trainer.lightning_module)
    assert list(metrics) == ["loss", "ko", "en", "pairs/s"]
    assert (metrics["ko"], metrics["en"]) == ("25%", "50%")
    assert "3/3" in _drawn(bar)


def test_pair_progress_bar__without_metrics(fit: Fit) -> None:
    bar = PairProgressBar("MAE pre-training")
    fit([bar], steps=1, enable_progress_bar=True)
    assert "pairs/s" not in bar.get_metrics(bar.trainer, bar.trainer.lightning_module)
    assert "MAE pre-training" in _drawn(bar)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bar__on_terminals_alone(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    assert len(bar_on_terminal("mae")) == is_terminal
