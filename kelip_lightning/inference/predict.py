"""Which of some texts fits an image."""

from collections.abc import Sequence
from pathlib import Path

import torch

from data_modules.errors import DataError
from data_modules.images.transforms.evaluation import evaluation_image
from kelip_lightning.evaluation.encoders import image_encode_function, text_encode_function
from kelip_lightning.evaluation.finite import require_finite
from kelip_lightning.models.model_folder import load_dual_encoder
from kelip_lightning.runs.folder import RunFolder


@torch.no_grad()
def predict(run: RunFolder, image: Path, texts: Sequence[str], device: torch.device) -> list[float]:
    """The probability of each text given the image: softmax over the texts of scaled cosine similarities.

    Computed on `device`.

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
