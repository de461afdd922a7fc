"""Evaluating a finished run."""

import torch

from data_modules.benchmarks.evaluation_sets import EvaluationConfig, build_evaluation_sets
from kelip_lightning.evaluation.embed import Embeddings
from kelip_lightning.evaluation.encoders import image_encode_function, text_encode_function
from kelip_lightning.evaluation.items import TaskItems, items_of
from kelip_lightning.evaluation.suite import chance_levels, evaluate_sets
from kelip_lightning.models.model_folder import load_dual_encoder
from kelip_lightning.runs.folder import RunFolder


def evaluate_run(
    run: RunFolder, evaluation: EvaluationConfig, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of a finished run on the configured sets, and what chance gives, under the same keys.

    Computed on `device`, in the dtype of the run's weights. The metrics equal those that the run's own last evaluation
    logged, on the same hardware.
    """
    trained = load_dual_encoder(run.dual_encoder)
    trained.model.to(device)
    sets = build_evaluation_sets(evaluation, trained.model.image_encoder.config.image_size)
    metrics = evaluate_sets(
        image_encode_function(trained.model), text_encode_function(trained.model, trained.tokenizer), sets
    )
    return metrics, chance_levels(sets)


def items_of_run(run: RunFolder, evaluation: EvaluationConfig, device: torch.device) -> list[TaskItems]:
    """The outcome of every item of the configured sets, for a finished run, computed on `device`."""
    trained = load_dual_encoder(run.dual_encoder)
    trained.model.to(device)
    sets = build_evaluation_sets(evaluation, trained.model.image_encoder.config.image_size)
    encoders = image_encode_function(trained.model), text_encode_function(trained.model, trained.tokenizer)
    return items_of(Embeddings(*encoders), sets)
