"""The model that ships: it loads by name, is small, and is as good as its card says."""

import re

import pytest
import torch
from safetensors import safe_open

from data_modules.benchmarks.config import RetrievalSetConfig, TableConfig
from data_modules.benchmarks.evaluation_sets import EvaluationSets, build_retrieval_set
from data_modules.paths import resolve_path
from kelip_lightning.evaluation.suite import Streaming, evaluate_sets
from kelip_lightning.inference.build_model import build_model
from kelip_lightning.inference.encoders import load_encoders
from kelip_lightning.interchange.model_names import SHIPPED_MODELS

FOLDER = resolve_path(SHIPPED_MODELS["emoji"])
WEIGHTS = FOLDER / "open_clip_model.safetensors"


def test_size__is_at_most_eight_megabytes() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8_000_000


def test_weights__are_half_precision_and_loaded_as_float32() -> None:
    with safe_open(WEIGHTS, "pt") as stored:
        assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118
    model, _, tokenizer = build_model("emoji")
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    assert tokenizer.encode(["사과"]).shape[0] == 1


def _card_metrics() -> dict[str, float]:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    return {name: float(value) for name, value in re.findall(r"^\| (\S+/\S+) \| ([0-9.]+) \|", card, re.MULTILINE)}


def test_card__says_revision_data_licences_and_limits() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.search(r"git revision [0-9a-f]{40}", card)
    for part in ("make pretrain", "CC BY 4.0", "Unicode-3.0", "It knows emoji and nothing else".lower(), "Limits"):
        assert part.lower() in card.lower()
    assert {f"unseen_design_{one}/image_to_text_R@1" for one in ("ko", "en")} <= set(_card_metrics())


def test_metrics__on_the_unseen_design_are_those_of_the_card() -> None:
    """The whole set, as its metrics depend on the size of the gallery; a few seconds."""
    table = TableConfig(files=["package:emoji/noto.parquet"], captions={"ko": "name_ko", "en": "name_en"})
    config = RetrievalSetConfig(
        table=table,
        where={"split": ["unseen_design"], "skin_tone": ["false"]},
        gallery={"skin_tone": ["false"]},
    )
    sets = EvaluationSets(retrieval=[build_retrieval_set("unseen_design", config)])
    encoders = load_encoders("emoji", torch.device("cpu"))
    found = evaluate_sets(sets, encoders, Streaming()).metrics
    card = _card_metrics()
    for language in ("ko", "en"):
        for metric in ("image_to_text_R@1", "image_to_text_R@5"):
            name = f"unseen_design_{language}/{metric}"
            assert found[f"eval/{name}"] == pytest.approx(card[name], abs=0.003), name
