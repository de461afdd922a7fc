"""A small valid experiment of both stages, on files that exist."""

from pathlib import Path

import pytest

BASE = """
name: small
image_encoder: {image_size: 32, patch_size: 16, width: 32, depth: 1, num_heads: 2}
schedule: {max_steps: 4}
data:
  global_batch_size: 8
  sources:
    one: {files: [DATA], captions: {ko: ko}}
"""
MAE = """
extends: base.yaml
transform: {image_size: 32}
masked_autoencoder: {decoder_width: 16, decoder_depth: 1, decoder_num_heads: 2}
"""
CONTRASTIVE = """
extends: base.yaml
transform: {image_size: 32, local_size: 16, num_local_crops: 1}
tokenizer: {vocab_size: 300, context_length: 8}
text_encoder: {width: 32, depth: 1, num_heads: 2}
dual_encoder: {embed_dim: 16}
evaluation:
  retrieval:
    known: {table: {files: [DATA], captions: {ko: ko, en: en}}}
"""
PRETRAIN = """
name: chain
mae: {extends: mae.yaml}
contrastive: {extends: contrastive.yaml}
"""


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """Folder with base.yaml, mae.yaml, contrastive.yaml and pretrain.yaml."""
    data = tmp_path / "pairs.parquet"
    data.touch()
    texts = {"base": BASE, "mae": MAE, "contrastive": CONTRASTIVE, "pretrain": PRETRAIN}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)), encoding="utf-8")
    return tmp_path
