"""Agreement of loss and gradients, and that a disagreement is seen."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from kelip_lightning.benchmarks.step import agreement
from kelip_lightning.benchmarks.step.agreement import TOLERANCE, Agreement, compare_steps, gradient_error
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.peers import PEERS, PLAIN, entries_of
from kelip_lightning.benchmarks.step.setting import StepSetting
from kelip_lightning.interchange.formats.key_map import Entry, Layout, entry

Setting = Callable[..., StepSetting]


def test_compare_steps__all_contestants_agree(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    found = compare_steps(tiny_setting(precision="bf16-mixed"), lengths, PEERS)
    assert [one.peer for one in found] == list(PEERS)
    for one in found:
        assert one.holds and one.gradient_error < 1e-5 and one.loss_error < 1e-5
        assert one.our_loss > 1


def test_compare_steps__multi_crop_agrees_with_the_plain_model(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    (found,) = compare_steps(tiny_setting(global_crops=2, local_crops=3), lengths, [PLAIN])
    assert found.holds


def test_compare_steps__sees_a_wrong_mapping(
    tiny_setting: Setting, lengths: CaptionLengths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries and keys of one block exchanged: the shapes are the same, and so is nothing else."""

    def exchanged(setting: StepSetting) -> list[Entry]:
        return [_exchange(one) if "layers.1.self_attn.q_proj" in one.ours[0] else one for one in entries_of(setting)]

    def _exchange(one: Entry) -> Entry:
        query, key, value = one.ours
        return replace(one, ours=(key, query, value))

    monkeypatch.setattr(agreement, "entries_of", exchanged)
    (found,) = compare_steps(tiny_setting(), lengths, [PLAIN])
    assert not found.holds
    assert found.gradient_error > 100 * TOLERANCE


def test_gradient_error__is_the_largest_relative_norm() -> None:
    entries = [entry("a", "x"), entry("b", "y", Layout.transposed)]
    ours = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[1.0, 2.0]])}
    theirs = {"x": torch.tensor([3.0, 4.5]), "y": torch.tensor([[1.0], [2.0]])}
    error, name = gradient_error(entries, ours, theirs)
    assert error == pytest.approx(0.5 / math.hypot(3, 4.5))
    assert name == "x"


@pytest.mark.parametrize(
    "theirs",
    [
        {"x": torch.ones(2)},
        {"x": torch.ones(2), "y": torch.ones(2), "z": torch.ones(2)},
        {"x": torch.ones(2), "y": torch.ones(1, 2)},
        {"x": torch.ones(2), "y": torch.tensor([1.0, math.nan])},
    ],
    ids=["missing", "unexpected", "shape", "nan"],
)
def test_gradient_error__is_never_small_for_tensors_that_cannot_be_compared(theirs: dict[str, torch.Tensor]) -> None:
    error, _ = gradient_error([entry("a", "x"), entry("b", "y")], {"a": torch.ones(2), "b": torch.ones(2)}, theirs)
    assert not error <= TOLERANCE


def test_agreement__holds_only_if_both_errors_are_small() -> None:
    good = Agreement(peer="p", pairs=2, our_loss=2.0, peer_loss=2.0001, gradient_error=5e-5, worst_parameter="x")
    assert good.loss_error == pytest.approx(0.0001 / 2.0001)
    assert good.holds
    for change in ({"our_loss": 2.001}, {"gradient_error": 2e-4}, {"gradient_error": math.nan}, {"our_loss": math.nan}):
        assert not replace(good, **change).holds
