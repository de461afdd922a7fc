"""experiments/models: each file loads as a section, with the parameter count of open_clip's counterpart."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from torch import nn

from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.text_encoder import TextEncoder
from tests.paths import ROOT

FILES = sorted((ROOT / "experiments" / "models").glob("*.yaml"))
IMAGE_COUNTERPARTS = {
    "vit_b32": "ViT-B-32",
    "vit_b16": "ViT-B-16",
    "vit_l14": "ViT-L-14",
    "vit_s16": "ViT-S-16",
    "vit_s32": "ViT-S-32",
}
TEXT_COUNTERPARTS = {"text_b": "ViT-B-32", "text_l": "ViT-L-14", "text_s": "ViT-S-32"}


def _load(folder: Path, file: Path) -> ContrastiveExperiment:
    """A contrastive experiment with a section that extends the file."""
    section = "text_encoder" if file.stem.startswith(("text_", "xlm_")) else "image_encoder"
    experiment = {
        "name": "sizes",
        section: {"extends": str(file)},
        "data": {"sources": {"pairs": {"files": ["pairs.parquet"], "captions": {"ko": "ko", "en": "en"}}}},
        "schedule": {"max_steps": 10},
        "transform": {"num_local_crops": 0},
        "tokenizer": {"vocab_size": 49_408, "context_length": 77, "file": "tokenizer.json"},
    }
    (folder / "contrastive.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    return load_experiment(folder / "contrastive.yaml", [], ContrastiveExperiment, on_this_machine=False).experiment


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file__loads_as_a_section_and_documents_how(file: Path, tmp_path: Path) -> None:
    experiment = _load(tmp_path, file)
    section = "text_encoder" if "text_encoder: {extends" in file.read_text(encoding="utf-8") else "image_encoder"
    for key, value in yaml.safe_load(file.read_text(encoding="utf-8")).items():
        loaded = getattr(getattr(experiment, section), key)
        assert getattr(loaded, "name", loaded) == value
    assert f"extends: ../models/{file.name}" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(("stem", "name"), IMAGE_COUNTERPARTS.items())
def test_image_encoder__has_the_parameters_of_its_counterpart(stem: str, name: str, tmp_path: Path) -> None:
    config = _load(tmp_path, ROOT / "experiments" / "models" / f"{stem}.yaml").image_encoder
    with torch.device("meta"):
        ours = ImageEncoder(config)
    theirs = _open_clip(name).visual
    assert _count(ours) == _count(theirs) - theirs.proj.numel()
    assert [tuple(ours.vit.patch_embed.proj.weight.shape)] == [tuple(theirs.conv1.weight.shape)]
    assert ours.vit.blocks[0].attn.num_heads == theirs.transformer.resblocks[0].attn.num_heads


@pytest.mark.parametrize(("stem", "name"), TEXT_COUNTERPARTS.items())
def test_text_encoder__has_the_parameters_of_its_counterpart(stem: str, name: str, tmp_path: Path) -> None:
    config = _load(tmp_path, ROOT / "experiments" / "models" / f"{stem}.yaml").text_encoder
    with torch.device("meta"):
        ours = TextEncoder(config, vocab_size=49_408, context_length=77, eot_id=49_407, pad_id=0)
    theirs = _open_clip(name)
    assert _count(ours) == _count(theirs) - _count(theirs.visual) - theirs.text_projection.numel() - 1
    assert config.num_heads == theirs.transformer.resblocks[0].attn.num_heads


def test_every_size_has_a_counterpart() -> None:
    others = {"timm_vit_s16", "xlm_roberta_base"}
    assert {file.stem for file in FILES} == {*IMAGE_COUNTERPARTS, *TEXT_COUNTERPARTS, *others}


def _open_clip(name: str) -> Any:
    with torch.device("meta"):
        return open_clip.model.CLIP(**open_clip.get_model_config(name))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
