"""Zero-shot prediction with a model, and evaluation of one or several."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data_modules.benchmarks.config import EvaluationConfig
from data_modules.benchmarks.evaluation_sets import build_evaluation_sets
from data_modules.errors import DataError
from data_modules.paths import elsewhere
from kelip_lightning.evaluation.chance import chance_levels
from kelip_lightning.evaluation.embed import require_finite, unit_rows
from kelip_lightning.evaluation.suite import Evaluation, Streaming, evaluate_sets
from kelip_lightning.evaluation.tasks import TaskItems
from kelip_lightning.inference.encoders import FLOAT32, load_encoders
from kelip_lightning.inference.evaluation_file import available_part
from kelip_lightning.runs.folder import RunFolder


@torch.no_grad()
def predict(name: str, image: Path, texts: Sequence[str], device: torch.device) -> list[float]:
    """The probability of each text given the image: softmax over the texts of scaled cosine similarities, in float32.

    Args:
        name: As in `load_encoders`.
        image: An image file.
        texts: One or more texts.
        device: The model's.

    Raises:
        EncoderFileError: There is no such model.
        DataError: The image is missing or unreadable, or there is no text.
        NonFiniteEmbeddingsError: An embedding holds NaN or infinity.
    """
    if not image.is_file():
        raise DataError(f"image {image} does not exist; give the path of an image file")
    if not texts:
        raise DataError("no texts to compare: give one or more after --texts")
    encoders = load_encoders(name, device, FLOAT32)
    try:
        pixels = encoders.preprocess(image.read_bytes())
    except DataError as error:
        raise DataError(f"image {image}: {error}") from error
    image_BE = unit_rows(encoders.encode_images(pixels.unsqueeze(0)))
    text_BE = unit_rows(encoders.encode_texts(list(texts)))
    require_finite(image_BE, "image")
    require_finite(text_BE, "text")
    scaled_BE = encoders.logit_scale * text_BE
    require_finite(scaled_BE, "scaled text")
    probabilities: list[float] = (image_BE @ scaled_BE.T).softmax(dim=-1)[0].tolist()
    return probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Several models on the same sets."""

    models: dict[str, Evaluation]
    """Name, as given -> its evaluation."""
    chance: dict[str, float]
    """Metric -> expected value of random embeddings."""
    notes: list[str]
    """What was left out of the sets."""
    missing: dict[str, str]
    """Set -> a file of it that is not there."""


def evaluate_models(
    names: Sequence[str], evaluation: EvaluationConfig, device: torch.device, precision: str | None = None
) -> Results:
    """Every metric of the models on the configured sets whose files are there.

    A run is evaluated in the precision of its training: on the same hardware the metrics equal those of its own last
    evaluation.

    Args:
        names: As in `load_encoders`.
        evaluation: The sets.
        device: The models'.
        precision: As in `load_encoders`.

    Raises:
        DataError: No set's files are there, a file is damaged, or a set is empty or inconsistent.
        EncoderFileError: There is no such model.
    """
    available, missing = available_part(evaluation)
    if not available.has_sets:
        name, file = next(iter(missing.items()))
        raise DataError(
            f"no evaluation set has its files here: {len(missing)} are missing, {file} of {name} for example"
            f"{elsewhere(file)}; set evaluation.data_folder to the folder that holds them"
        )
    sets = build_evaluation_sets(available)
    models = {}
    for name in names:
        models[name] = evaluate_sets(sets, load_encoders(name, device, precision), streaming_of(evaluation))
    return Results(
        models=models,
        chance=chance_levels(sets),
        notes=[note for one in sets for note in one.notes],
        missing=missing,
    )


def streaming_of(evaluation: EvaluationConfig) -> Streaming:
    """Batches as configured, and loader processes for all processor cores but one."""
    return Streaming(batch_size=evaluation.batch_size, num_workers=max(1, (os.cpu_count() or 1) - 1))


def items_of_run(run: RunFolder, evaluation: EvaluationConfig, device: torch.device) -> list[TaskItems]:
    """The result of every item of the configured sets for a finished run."""
    sets = build_evaluation_sets(evaluation)
    return evaluate_sets(sets, load_encoders(str(run.path), device, None), streaming_of(evaluation)).items
