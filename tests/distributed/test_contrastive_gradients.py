"""Two processes over gloo: averaged gradients are those of one process with the whole batch."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from data_modules.tokenizer import train_tokenizer
from kelip_lightning.distributed import gather_rows
from kelip_lightning.losses.contrastive import contrastive_loss
from kelip_lightning.models.dual_encoder import DualEncoder, DualEncoderConfig
from kelip_lightning.models.dual_encoder_file import build_dual_encoder
from kelip_lightning.models.image_encoder import ImageEncoderConfig
from kelip_lightning.models.text_encoder import TextEncoderConfig

WORLD, BATCH = 2, 6
TEXTS = ["사과", "red apple", "빨간 사과", "green apple", "과일", "fruit"]
Gather = Callable[[Tensor], Tensor]


def gather_without_gradient(rows: Tensor) -> Tensor:
    """The mistake: same values, but no gradient to any row through the gathered copy."""
    gathered = [torch.empty_like(rows) for _ in range(WORLD)]
    dist.all_gather(gathered, rows.detach().contiguous())
    return torch.cat(gathered)


def gather_own_rows_only(rows: Tensor) -> Tensor:
    """A subtler one: gradient to the own rows, none to those of other ranks."""
    gathered = gather_without_gradient(rows)
    own = dist.get_rank() * len(rows)
    return torch.cat([gathered[:own], rows, gathered[own + len(rows) :]])


def _model() -> DualEncoder:
    torch.manual_seed(0)
    return build_dual_encoder(
        ImageEncoderConfig(image_size=16, patch_size=8, width=16, depth=1, num_heads=2),
        TextEncoderConfig(width=16, depth=1, num_heads=2),
        DualEncoderConfig(embed_dim=8),
        train_tokenizer(TEXTS, 280, 12),
    )


def _gradients(rank: int, world: int, gather: Gather | None) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of this rank's share of one fixed batch."""
    model, generator = _model(), torch.Generator().manual_seed(1)
    global_crops = torch.randn(2, BATCH, 3, 16, 16, generator=generator)
    local_crops = torch.randn(3, BATCH, 3, 8, 8, generator=generator)
    tokens = train_tokenizer(TEXTS, 280, 12).encode(TEXTS)
    own = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    features = model(global_crops[:, own], local_crops[:, own], tokens[own])
    loss = contrastive_loss(
        features.global_VBE,
        features.local_VBE,
        features.text_BE,
        features.logit_scale,
        local_weight=0.5,
        gather=gather,
        rank=rank,
    ).total
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _train_rank(rank: int, meeting_point: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=WORLD)
    averaged = {}
    for gather in (gather_rows, gather_without_gradient, gather_own_rows_only):
        loss, gradients = _gradients(rank, WORLD, gather)
        values = {"loss": torch.tensor(loss), **gradients}
        for value in values.values():
            dist.all_reduce(value)
            value /= WORLD
        averaged[gather.__name__] = values
    if rank == 0:
        torch.save(averaged, results)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Gather -> name -> gradient averaged over the ranks, and the averaged loss."""
    folder = tmp_path_factory.mktemp("gloo")
    multiprocessing.spawn(_train_rank, (str(folder / "meeting"), str(folder / "results.pt")), nprocs=WORLD)
    result: dict[str, dict[str, Tensor]] = torch.load(folder / "results.pt")
    return result


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    loss, gradients = _gradients(0, 1, None)
    return {"loss": torch.tensor(loss), **gradients}


def _differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    assert found.keys() == expected.keys()
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    close = {name: torch.allclose(found[name], value, rtol=1e-5, atol=1e-6 * scale) for name, value in expected.items()}
    return [name for name, same in close.items() if not same]


@pytest.mark.distributed
def test_gather_rows__every_gradient_equals_that_of_one_process(
    averaged: dict[str, dict[str, Tensor]], expected: dict[str, Tensor]
) -> None:
    assert {"logit_scale", "image_projection.weight", "image_encoder.vit.cls_token"} <= expected.keys()
    assert expected.keys() - {"loss"} == {name for name, _ in _model().named_parameters()}
    assert _differing(averaged["gather_rows"], expected) == []


@pytest.mark.distributed
@pytest.mark.parametrize("mistake", ["gather_without_gradient", "gather_own_rows_only"])
def test_gather_rows__a_gather_that_loses_gradient_would_be_noticed(
    averaged: dict[str, dict[str, Tensor]], expected: dict[str, Tensor], mistake: str
) -> None:
    torch.testing.assert_close(averaged[mistake]["loss"], expected["loss"], msg="the loss alone tells nothing")
    assert "image_projection.weight" in _differing(averaged[mistake], expected)


def test_gather_rows__one_process_keeps_its_rows() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
