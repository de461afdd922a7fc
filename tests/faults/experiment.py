"""Experiments that train in a second: a chain of both stages on generated images, and contrastive training alone."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

MAE_STEPS, CONTRASTIVE_STEPS = 6, 14
EVALUATE_EVERY, SAVE_EVERY, PROBE_EVERY = 4, 3, 2
BATCH = 8
NUM_PAIRS = 20


def write_experiment(folder: Path) -> Path:
    """Write the pictures and the experiment; returns its file."""
    images = folder / "pairs.parquet"
    pq.write_table(_table(), images)
    experiment = folder / "pretrain.yaml"
    experiment.write_text(yaml.safe_dump(_experiment(str(images))), encoding="utf-8")
    return experiment


def _table() -> pa.Table:
    generator = np.random.default_rng(0)
    rows = [
        {
            "key": f"image-{index}",
            "image": {"bytes": _png(generator), "path": None},
            "ko": f"그림 {index}",
            "en": f"picture {index}",
            "concept": str(index),
            "number": str(index),
            "kind": "abc"[index % 3],
        }
        for index in range(NUM_PAIRS)
    ]
    return pa.Table.from_pylist(rows)


def _png(generator: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


ALLOWED = {"allow_repeats": True, "allow_partial_epoch": True}
"""A few pairs and steps are enough here."""


def _experiment(images: str) -> dict[str, Any]:
    shared = {
        "trainer": {"precision": "32", "accelerator": "cpu", "log_every_n_steps": 1},
        "image_encoder": {"image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "num_heads": 2},
        "checkpoint": {"every_n_steps": SAVE_EVERY},
        "optimizer": {"learning_rate": 1e-3},
    }
    data = {"global_batch_size": BATCH, "num_workers": 0}
    mae = {
        "data": data | {"sources": {"all": {"files": [images], "captions": {"ko": "ko"}}}},
        "transform": {"image_size": 16},
        "masked_autoencoder": {"decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2},
        "schedule": {"max_steps": MAE_STEPS, "warmup_steps": 2},
        "probe": {"every_n_steps": PROBE_EVERY, "sets": {"kinds": _probe(images)}},
    }
    contrastive = {
        "data": data | ALLOWED | {"sources": {"all": {"files": [images], "captions": {"ko": "ko", "en": "en"}}}},
        "transform": {"image_size": 16, "num_global_crops": 1, "num_local_crops": 1, "local_size": 8},
        "tokenizer": {"vocab_size": 300, "context_length": 24},
        "text_encoder": {"width": 16, "depth": 1, "num_heads": 2},
        "dual_encoder": {"embed_dim": 8},
        "schedule": {"max_steps": CONTRASTIVE_STEPS, "warmup_steps": 2},
        "evaluation": {
            "every_n_steps": EVALUATE_EVERY,
            "retrieval": {"all": {"table": {"files": [images], "captions": {"ko": "ko", "en": "en"}}}},
        },
    }
    contrastive["image_encoder"] = shared["image_encoder"] | {"patch_drop_rate": 0.5}
    return {"name": "tiny", "mae": shared | mae, "contrastive": shared | contrastive}


def _probe(images: str) -> dict[str, Any]:
    """The first pictures against the others."""
    numbers = [str(index) for index in range(NUM_PAIRS)]
    parts = {"train": numbers[:14], "test": numbers[14:]}
    return {"label": "kind", "k": 3, "max_iter": 20} | {
        part: {"table": {"files": [images]}, "where": {"number": wanted}} for part, wanted in parts.items()
    }


def write_contrastive(folder: Path, data: dict[str, Any], max_steps: int, **sections: Any) -> Path:
    """Write an experiment of contrastive training alone, `tiny` in folder/runs; returns its file.

    Args:
        folder: For the file.
        data: The section `data`, without `num_workers`.
        max_steps: Optimizer steps.
        sections: Further sections, which replace the defaults.
    """
    content: dict[str, Any] = {
        "name": "tiny",
        "output_dir": str(folder / "runs"),
        "data": {"num_workers": 0} | ALLOWED | data,
        "tokenizer": {"vocab_size": 290, "context_length": 24},
        "image_encoder": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2},
        "transform": {"image_size": 16, "num_global_crops": 1, "num_local_crops": 0},
        "text_encoder": {"width": 16, "depth": 1, "num_heads": 2},
        "dual_encoder": {"embed_dim": 8},
        "schedule": {"max_steps": max_steps, "warmup_steps": 1},
        "optimizer": {"learning_rate": 1.0e-3},
        "trainer": {"precision": "32", "accelerator": "cpu", "log_every_n_steps": 1},
    }
    experiment = folder / "experiment.yaml"
    experiment.write_text(yaml.safe_dump(content | sections), encoding="utf-8")
    return experiment
