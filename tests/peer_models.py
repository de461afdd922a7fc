"""Tiny random models of other libraries, written as folders that these libraries read."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from data_modules.text.tokenizer import BilingualTokenizer, write_tokenizer_folder
from tests.paths import FIXTURES

TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VISION = TOWER | {"image_size": 32, "patch_size": 8}
TEXT = TOWER | {
    "vocab_size": 8,
    "max_position_embeddings": 12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Configurations of transformers."""
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = ["사과", "빨간", "red", "apple"]

OPEN_CLIP_VISION: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 2}
OPEN_CLIP_TEXT: dict[str, Any] = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
OPEN_CLIP_SIGLIP: dict[str, Any] = {
    "embed_dim": 8,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": OPEN_CLIP_VISION,
    "text_cfg": OPEN_CLIP_TEXT
    | {
        "vocab_size": 280,
        "hf_tokenizer_name": "a name that is not read from a local folder",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
    },
}
SQUASHED = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


def word_tokenizer(length: int | None, words: Iterable[str] = WORDS) -> PreTrainedTokenizerFast:
    """A token per known word, between start and end; `None`: without a largest length."""
    vocabulary = dict.fromkeys([*SPECIALS, *words])
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    limit = {} if length is None else {"model_max_length": length}
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **limit)


def randomise(model: torch.nn.Module) -> None:
    """Move all parameters, so that features of different inputs differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def saved(folder: Path, model: PreTrainedModel, *parts: Any) -> Path:
    """A folder of transformers with the model, its parameters moved, and its processors."""
    randomise(model)
    for part in (model, *parts):
        part.save_pretrained(folder)
    return folder


def save_clip(folder: Path, words: Iterable[str] = WORDS) -> Path:
    """A CLIPModel with its own crop size and mean."""
    tokenizer = word_tokenizer(12, words)
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]
    )
    text = TEXT | {"vocab_size": len(tokenizer)}
    model = CLIPModel(CLIPConfig(vision_config=VISION, text_config=text, projection_dim=8))
    return saved(folder, model, CLIPProcessor(image_processor, tokenizer))


def save_siglip(folder: Path, words: Iterable[str] = WORDS) -> Path:
    """A SiglipModel."""
    tokenizer = word_tokenizer(12, words)
    image_processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    model = SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT | {"vocab_size": len(tokenizer)}))
    return saved(folder, model, SiglipProcessor(image_processor, tokenizer))


def save_open_clip_siglip(folder: Path, tokenizer: BilingualTokenizer) -> Path:
    """A model of open_clip with SigLIP's preprocessing; the tokenizer has at most 280 ids."""
    write_tokenizer_folder(folder, tokenizer)
    config = {"model_cfg": OPEN_CLIP_SIGLIP, "preprocess_cfg": SQUASHED}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = open_clip.create_model(f"local-dir:{folder}")
    randomise(model)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def save_official_kelip(folder: Path) -> Path:
    """The fixture in the official layout, with a tokenizer of single ASCII characters, which it lacks."""
    shutil.copytree(FIXTURES / "official_kelip_tiny", folder)
    names = {0: "[PAD]", 1: "[UNK]", 118: "[SOT]", 119: "[EOT]"}
    letters = {index: chr(ord(" ") + index - 2) for index in range(2, 97)}
    vocabulary = {(names | letters).get(index, f"unused {index}"): index for index in range(120)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    write_tokenizer_folder(folder, BilingualTokenizer(characters, 24))
    return folder
