"""One round, and the order of the contestants."""

from collections.abc import Callable

import pytest

from kelip_lightning.benchmarks.step import ceiling, rounds
from kelip_lightning.benchmarks.step.batches import make_batches
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.ceiling import count_step
from kelip_lightning.benchmarks.step.rounds import RoundPlan, measure_round, pairs_per_second, run_rounds
from kelip_lightning.benchmarks.step.setting import StepSetting
from kelip_lightning.benchmarks.step.trainer_steps import build_module

Setting = Callable[..., StepSetting]
CONTESTANTS = ["ours", "open_clip_77", "open_clip_longest", "plain"]


@pytest.fixture
def plan(tiny_setting: Setting, lengths: CaptionLengths, monkeypatch: pytest.MonkeyPatch) -> RoundPlan:
    monkeypatch.setattr(ceiling, "SQUARE", 64)
    monkeypatch.setattr(ceiling, "MIN_SECONDS", 0.001)
    return RoundPlan(setting=tiny_setting(), lengths=lengths, contestants=CONTESTANTS, warmup=1, steps=2)


def test_measure_round__every_contestant_trains_on_the_same_batches(plan: RoundPlan) -> None:
    done = measure_round(plan, number=1)
    assert done.order == [*CONTESTANTS[1:], "ours"]
    assert done.contestants.keys() == set(CONTESTANTS)
    losses = [one.times.last_loss for one in done.contestants.values()]
    assert max(losses) - min(losses) < 1e-3, "float32, the same weights, batches and optimizer"
    for one in done.contestants.values():
        assert len(one.times.seconds_per_step) == 2
        assert one.times.seconds == pytest.approx(sum(one.times.seconds_per_step))
    assert pairs_per_second(plan, done, "plain") == 4 * 2 / done.contestants["plain"].times.seconds
    assert done.ceiling == max(done.product_rates.values())


def test_measure_round__counts_the_timed_batches(plan: RoundPlan) -> None:
    done = measure_round(plan, number=2)
    batches = make_batches(plan.setting, plan.lengths, seed=2)[1:3]
    flops = count_step(plan.setting, build_module(plan.setting, 1).model, batches)
    assert done.flops == sum(flops) / 2
    widths = [batch.tokens.shape[1] for batch in batches]
    assert done.longest_tokens == sum(widths) / 2
    words = [int((row > 0).sum()) for batch in batches for row in batch.tokens]
    assert done.caption_tokens == pytest.approx(sum(words) / len(words))


def test_run_rounds__one_process_and_one_line_each(plan: RoundPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "in_fresh_process", lambda _, work, *arguments: work(*arguments))
    lines: list[str] = []
    done = run_rounds(plan, 2, lines.append)
    assert [one.order[0] for one in done] == CONTESTANTS[:2]
    assert [line[:12] for line in lines] == ["round 1 of 2", "round 2 of 2"]
    assert all(name in lines[0] for name in CONTESTANTS)
