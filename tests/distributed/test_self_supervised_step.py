"""A DDP step with a self-supervised loss on two processes changes the weights as one process does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_modules.text.tokenizer import train_tokenizer
from kelip_lightning.losses.config import ContrastiveLossConfig
from kelip_lightning.models.config import SelfSupervisionConfig, SelfSupervisionMethod
from kelip_lightning.models.self_supervision import build_branch
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig
from tests.distributed.launch import launch
from tests.distributed.step import BATCH, RATE, TEXTS, build_model, share, whole_batch
from tests.trainers import quiet_trainer

CROPS = (1, 1)
METHODS = (SelfSupervisionMethod.simclr, SelfSupervisionMethod.byol)


class _PlainStep(ContrastiveModule):
    """One step of plain gradient descent, in which a weight's change is proportional to its gradient."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([one for one in self.parameters() if one.requires_grad], lr=RATE)


def _step(method: SelfSupervisionMethod, rank: int, world: int) -> dict[str, Tensor]:
    """Weights after one step, and their state before it under `before/`."""
    tokenizer = train_tokenizer(TEXTS, 280, 12)
    model = build_model(tokenizer)
    config = SelfSupervisionConfig(method=method, projection_width=12, projection_dim=6, momentum=0.5)
    module = _PlainStep(
        model,
        tokenizer,
        ContrastiveLossConfig(),
        OptimizerConfig(),
        ScheduleConfig(max_steps=1),
        self_supervision=build_branch(model.image_encoder, config),
    )
    views = torch.randint(0, 256, (2, BATCH, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    batch = share(replace(whole_batch(tokenizer, CROPS), views=views), rank, world)
    before = {f"before/{name}": value.clone() for name, value in module.state_dict().items()}
    trainer = quiet_trainer(1, world, strategy="ddp" if world > 1 else "auto")
    trainer.fit(module, torch.utils.data.DataLoader([batch], batch_size=None))
    return before | module.state_dict()


def _work(rank: int, world: int, folder: Path) -> None:
    for method in METHODS:
        torch.save(_step(method, rank, world), folder / f"{method.name}-{rank}.pt")


@pytest.mark.distributed
def test_two_processes__change_weights_and_target_as_one_does(tmp_path: Path) -> None:
    launch(_work, 2, tmp_path)
    for method in METHODS:
        expected = _step(method, 0, 1)
        found, other = (torch.load(tmp_path / f"{method.name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        for name in (one for one in expected if not one.startswith("before/")):
            assert torch.equal(found[name], other[name]), f"{name} differs between the ranks"
            before = expected[f"before/{name}"]
            assert torch.equal(before, found[f"before/{name}"])
            change = (expected[name] - before).norm()
            if name.endswith("k_proj.bias"):  # its gradient is zero but for rounding
                continue
            assert change > 0, f"{name} of {method.name} never moved"
            # A small change is known up to the rounding of its weight.
            rounding = 1e-6 * before.norm()
            assert (found[name] - expected[name]).norm() < 1e-4 * change + rounding, f"{name} of {method.name}"
