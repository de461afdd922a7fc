"""Our steps: what the fit does, and what it leaves behind."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from kelip_lightning.benchmarks.step.batches import make_batches
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.clock import StepClock
from kelip_lightning.benchmarks.step.setting import StepSetting, experiment_of
from kelip_lightning.benchmarks.step.trainer_steps import GradientsCallback, StopCallback, build_module, fit

Setting = Callable[..., StepSetting]


def test_fit__takes_the_steps_of_the_clock(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    setting = tiny_setting()
    clock, module = StepClock(torch.device("cpu"), 1, 4), build_module(setting, 5)
    before = module.model.image_projection.weight.detach().clone()
    fit(experiment_of(setting, 5), module, make_batches(setting, lengths, 0), 5, StopCallback(clock))
    assert len(clock.times().seconds_per_step) == 4
    assert not torch.equal(before, module.model.image_projection.weight)


def test_fit__restores_the_settings_of_torch(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    flash = torch.backends.cuda.flash_sdp_enabled()
    setting = tiny_setting()
    fit(experiment_of(setting, 1), build_module(setting, 1), make_batches(setting, lengths, 0), 1, GradientsCallback())
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert torch.backends.cuda.flash_sdp_enabled() is flash


def test_gradients_callback__keeps_loss_and_gradients_before_clipping(
    tiny_setting: Setting, lengths: CaptionLengths
) -> None:
    setting = tiny_setting()
    batch = make_batches(setting, lengths, 0)[0]
    module, kept = build_module(setting, 1), GradientsCallback()
    reference = build_module(setting, 1).model
    fit(experiment_of(setting, 1), module, [batch], 1, kept)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    images = (batch.global_crops[0] / 255 - mean) / deviation
    logits = reference.scale() * reference.encode_image(images) @ reference.encode_text(batch.tokens).T
    own = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    loss.backward()
    torch.testing.assert_close(kept.loss, loss.detach())
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(kept.gradients[name], parameter.grad, rtol=1e-4, atol=3e-5)
    assert torch.nn.utils.get_total_norm(list(kept.gradients.values())) > 1, "clipping would have changed them"
