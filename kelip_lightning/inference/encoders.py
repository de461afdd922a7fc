"""Placeholder until the peers are merged."""

from pathlib import Path

import torch

from data_modules.benchmarks.image_stream import EvaluationTransform
from kelip_lightning.evaluation.embed import image_encode_function, text_encode_function
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.models.model_folder import load_dual_encoder
from kelip_lightning.runs.folder import RunFolder


def load_encoders(name: str, device: torch.device, precision: str | None = None) -> Encoders:
    trained = load_dual_encoder(RunFolder.open(Path(name)).dual_encoder)
    model = trained.model.to(device)
    return Encoders(
        name=name,
        preprocess=EvaluationTransform(model.image_encoder.config.image_size),
        encode_images=image_encode_function(model),
        encode_texts=text_encode_function(model, trained.tokenizer),
        logit_scale=model.scale().item(),
        device=device,
    )
