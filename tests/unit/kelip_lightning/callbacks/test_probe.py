"""The probe callback: features of the trained encoder in the trainer's precision, and an undisturbed training run."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_modules.benchmarks.config import IntervalConfig, ProbeConfig
from data_modules.benchmarks.image_stream import SelectedImages
from data_modules.benchmarks.probe_sets import LabelledImages, ProbeSet
from data_modules.records import ImageBatch
from kelip_lightning.callbacks.probe import ProbeCallback, module_features
from kelip_lightning.evaluation.probe import evaluate_probes
from kelip_lightning.evaluation.suite import Streaming
from kelip_lightning.models.config import ImageEncoderConfig, MaskedAutoencoderConfig
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import build_masked_autoencoder
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig
from tests.trainers import quiet_trainer
from tests.unit.kelip_lightning.callbacks.conftest import StoredPictures

SIDE, BATCH, STEPS = 8, 4, 6


class Batches(Dataset[ImageBatch]):
    """Random images and noise, fixed by the index."""

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> ImageBatch:
        generator = torch.Generator().manual_seed(index)
        images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        seeds = torch.arange(BATCH)
        return ImageBatch(images=images, noise=torch.rand(BATCH, 4, generator=generator), sample_seeds=seeds,
                          sample_ids=seeds, faults=[])  # fmt: skip


def _probes(interval: IntervalConfig | None = None) -> list[ProbeSet]:
    def part(rows: list[int], labels: list[int]) -> LabelledImages:
        return LabelledImages(images=SelectedImages(StoredPictures(), np.array(rows)), labels=torch.tensor(labels))

    return [
        ProbeSet(
            name="kinds",
            train=part([0, 1, 2], [0, 1, 0]),
            test=part([3, 4], [1, 0]),
            classes=["a", "b"],
            k=1,
            l2=1.0,
            max_iter=20,
            interval=interval or IntervalConfig(),
        )
    ]


def _train(
    callbacks: list[pl.Callback], steps: int = STEPS, ckpt_path: Any = None, **options: Any
) -> tuple[pl.Trainer, MaskedPretrainModule, list[Tensor]]:
    """Masked pre-training with dropout; returns the states of torch's generator before each step too."""
    states: list[Tensor] = []

    class Module(MaskedPretrainModule):
        def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
            states.append(torch.get_rng_state())
            assert self.model.encoder.training
            return super().training_step(batch, batch_idx)

    pl.seed_everything(0, verbose=False)
    encoder = ImageEncoder(
        ImageEncoderConfig(image_size=SIDE, patch_size=4, width=16, depth=1, num_heads=2, dropout_rate=0.1)
    )
    model = build_masked_autoencoder(
        encoder, MaskedAutoencoderConfig(decoder_width=8, decoder_depth=1, decoder_num_heads=2, mask_ratio=0.5)
    )
    module = Module(model, OptimizerConfig(learning_rate=1e-3), ScheduleConfig(max_steps=STEPS, warmup_steps=1))
    trainer = quiet_trainer(steps, callbacks=callbacks, **options)
    trainer.fit(module, DataLoader(Batches(), batch_size=None), ckpt_path=ckpt_path)
    return trainer, module, states


def test_probe_callback__training_is_bit_for_bit_the_same() -> None:
    _, alone, without = _train([])
    callback = ProbeCallback(_probes(), ProbeConfig(every_n_steps=2))
    _, probed, with_probe = _train([callback])
    assert [step for step, _ in callback.history] == [0, 2, 4, 6]
    assert len(without) == len(with_probe) == STEPS
    assert all(torch.equal(one, other) for one, other in zip(without, with_probe, strict=True))
    for name, parameter in alone.named_parameters():
        assert torch.equal(parameter, probed.get_parameter(name)), name


def test_probe_callback__metrics_of_the_final_encoder() -> None:
    callback = ProbeCallback(_probes(), ProbeConfig())
    trainer, module, _ = _train([callback])
    module.eval()
    expected = evaluate_probes(_probes(), module_features(trainer, module), Streaming())
    assert callback.newest() == (STEPS, expected)
    assert callback.report()["metrics"] == expected


def test_probe_callback__a_set_has_its_own_interval(tmp_path: Any) -> None:
    callback = ProbeCallback(_probes(IntervalConfig(every_n_steps=3)), ProbeConfig(every_n_steps=2))
    trainer, _, _ = _train([callback], steps=4)
    assert [step for step, _ in callback.history] == [0, 3, 4]
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    resumed = ProbeCallback(_probes(IntervalConfig(every_n_steps=3)), ProbeConfig(every_n_steps=2))
    _train([resumed], ckpt_path=tmp_path / "state.ckpt")
    assert [step for step, _ in resumed.history] == [0, 3, 4, 6]
    assert resumed.history[:3] == callback.history


@pytest.mark.parametrize(("precision", "dtype"), [("32", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_module_features__whole_images_in_the_precision_of_the_trainer(
    precision: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, module, _ = _train([], steps=1, precision=precision)
    seen: list[tuple[torch.dtype, int]] = []
    forward: Callable[..., Tensor] = module.model.encoder.vit.blocks[0].mlp.fc1.forward

    def watched(tokens: Tensor) -> Tensor:
        out = forward(tokens)
        seen.append((out.dtype, out.shape[1]))
        return out

    monkeypatch.setattr(module.model.encoder.vit.blocks[0].mlp.fc1, "forward", watched)
    images = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    module.eval()
    with torch.no_grad():
        features = module_features(trainer, module).encode_images(images)
        expected = module.model.encoder(images)
    assert seen[0][0] == dtype
    assert features.shape == (3, 16)
    torch.testing.assert_close(
        features.float(), expected.float(), rtol=0.05, atol=0.05 if dtype != torch.float32 else 1e-5
    )
