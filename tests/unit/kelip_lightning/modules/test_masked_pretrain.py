"""One step of the MAE module against a direct computation."""

from collections.abc import Callable

import lightning.pytorch as pl
import pytest
import torch

from data_modules.records import ImageBatch
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig

RecordLogs = Callable[[pl.LightningModule], dict[str, float]]


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_training_step__value_and_every_gradient(
    tiny_autoencoder: Callable[..., MaskedAutoencoder], record_logs: RecordLogs, norm_pix_loss: bool
) -> None:
    model = tiny_autoencoder(norm_pix_loss=norm_pix_loss)
    module = MaskedPretrainModule(model, OptimizerConfig(), ScheduleConfig(max_steps=3))
    logged = record_logs(module)
    images, noise = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), torch.rand(3, 16)
    ids = torch.arange(3)
    loss = module.training_step(ImageBatch(images=images, noise=noise, sample_ids=ids, sample_seeds=ids), 0)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    module.zero_grad()

    pixels = normalize_images(images)
    prediction = model(pixels, noise).prediction_BNP
    errors = []
    for image in range(3):
        for patch in noise[image].argsort()[4:].tolist():
            row, column = divmod(patch, 4)
            target = pixels[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].permute(1, 2, 0).flatten()
            if norm_pix_loss:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors.append((prediction[image, patch] - target).square())
    expected = torch.stack(errors).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert logged == {"mae/loss": loss.item()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("accumulate", [2, 5])
def test_training_step__chunks_give_the_gradient_of_the_whole_batch(
    tiny_autoencoder: Callable[..., MaskedAutoencoder], record_logs: RecordLogs, accumulate: int
) -> None:
    model = tiny_autoencoder()
    images, noise = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8), torch.rand(5, 16)
    batch = ImageBatch(images=images, noise=noise, sample_ids=torch.arange(5), sample_seeds=torch.arange(5))
    model.encoder.config.drop_path_rate = 0.3
    gradients = []
    for chunks in (1, accumulate):
        module = MaskedPretrainModule(model, OptimizerConfig(), ScheduleConfig(max_steps=3), chunks)
        record_logs(module)
        module.zero_grad()
        module.training_step(batch, 0).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == {name for name, _ in model.named_parameters()}
    for name, whole in gradients[0].items():
        assert (gradients[1][name] - whole).norm() < 1e-5 * whole.norm(), name
