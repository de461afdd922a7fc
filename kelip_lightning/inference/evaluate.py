"""Zero-shot prediction and evaluation with the dual encoder of a finished run."""

from collections.abc import Sequence
from pathlib import Path

import torch

from data_modules.benchmarks.evaluation_sets import EvaluationConfig, EvaluationSets, build_evaluation_sets
from data_modules.errors import DataError
from data_modules.images.transforms.evaluation import evaluation_image
from kelip_lightning.evaluation.embed import Embeddings, image_encode_function, require_finite, text_encode_function
from kelip_lightning.evaluation.suite import TaskItems, chance_levels, items_of, metrics_of
from kelip_lightning.models.model_folder import load_dual_encoder
from kelip_lightning.runs.folder import RunFolder


@torch.no_grad()
def predict(run: RunFolder, image: Path, texts: Sequence[str], device: torch.device) -> list[float]:
    """The probability of each text given the image: softmax over the texts of scaled cosine similarities.

    Raises:
        DataError: The image is missing or unreadable, or there is no text.
        NonFiniteEmbeddingsError: An embedding holds NaN or infinity.
    """
    if not image.is_file():
        raise DataError(f"image {image} does not exist; give the path of an image file")
    if not texts:
        raise DataError("no texts to compare: give one or more after --texts")
    trained = load_dual_encoder(run.dual_encoder)
    model = trained.model.to(device)
    try:
        pixels = torch.from_numpy(evaluation_image(image.read_bytes(), model.image_encoder.config.image_size).copy())
    except DataError as error:
        raise DataError(f"image {image}: {error}") from error
    image_BE = image_encode_function(model)(pixels.unsqueeze(0))
    text_BE = text_encode_function(model, trained.tokenizer)(list(texts))
    require_finite(image_BE, "image")
    require_finite(text_BE, "text")
    scaled_BE = model.scale() * text_BE
    require_finite(scaled_BE, "scaled text")
    probabilities: list[float] = (image_BE @ scaled_BE.T).softmax(dim=-1)[0].tolist()
    return probabilities


def evaluate_run(
    run: RunFolder, evaluation: EvaluationConfig, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of a finished run on the configured sets, and the chance levels under the same keys.

    Computed in the dtype of the run's weights. On the same hardware the metrics equal those of the run's own last
    evaluation.
    """
    embeddings, sets = _embeddings_and_sets(run, evaluation, device)
    return metrics_of(embeddings, sets), chance_levels(sets)


def items_of_run(run: RunFolder, evaluation: EvaluationConfig, device: torch.device) -> list[TaskItems]:
    """The result of every item of the configured sets for a finished run."""
    return items_of(*_embeddings_and_sets(run, evaluation, device))


def _embeddings_and_sets(
    run: RunFolder, evaluation: EvaluationConfig, device: torch.device
) -> tuple[Embeddings, EvaluationSets]:
    trained = load_dual_encoder(run.dual_encoder)
    model = trained.model.to(device)
    sets = build_evaluation_sets(evaluation, model.image_encoder.config.image_size)
    return Embeddings(image_encode_function(model), text_encode_function(model, trained.tokenizer)), sets
