"""`build_model`: a trained model with the interface of the official KELIP inference code."""

from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from data_modules.errors import DataError
from data_modules.images.decoding import flatten_image
from data_modules.images.transforms.evaluation import centre_square
from data_modules.text.tokenizer import TOKENIZER
from kelip_lightning.interchange.folder import load_model_folder
from kelip_lightning.interchange.model_names import resolve_folder
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.preprocessing import normalize_images


class KelipModel(nn.Module):
    """Dual encoder with the methods of the official code; features are unnormalised unless `l2norm=True`, as there."""

    def __init__(self, dual_encoder: DualEncoder) -> None:
        super().__init__()
        self.dual_encoder = dual_encoder

    @property
    def logit_scale(self) -> Tensor:
        """The parameter (1,), the logarithm of the scale."""
        return self.dual_encoder.logit_scale

    def encode_image(self, images: Tensor, l2norm: bool = False) -> Tensor:
        """Features (B, embed_dim) float32 of images (B, 3, H, W) as `preprocess` gives them.

        H and W may differ from the training size, but must be multiples of the patch size.
        """
        return self.dual_encoder.encode_image(images, l2norm=l2norm)

    def encode_text(self, tokens: Tensor, l2norm: bool = False) -> Tensor:
        """Features (B, embed_dim) float32 of token ids (B, T) int64 as `tokenizer.encode` gives them.

        T may exceed the model's context length if the rest is padding.
        """
        return self.dual_encoder.encode_text(self._without_padding(tokens), l2norm=l2norm)

    def _without_padding(self, tokens: Tensor) -> Tensor:
        longest = self.dual_encoder.text_encoder.context_length
        if (tokens[:, longest:] != self.dual_encoder.text_encoder.pad_id).any():
            raise DataError(f"texts of more than {longest} tokens; encode them with the model's own tokenizer")
        return tokens[:, :longest]

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(logits_per_image (B, C), logits_per_text (C, B)) of B images and C texts: scaled cosine similarities."""
        image_BE, text_CE = self.encode_image(images, l2norm=True), self.encode_text(tokens, l2norm=True)
        logits_BC = self.dual_encoder.scale() * image_BE @ text_CE.T
        return logits_BC, logits_BC.T


class Preprocess:
    """A PIL image to a model's input: on white, short side resized (bicubic), centre-cropped, standardised.

    Deviation: transparent pixels become white; the official code uses their hidden colour.
    """

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, image: Image.Image) -> Tensor:
        """float32 (3, S, S).

        Raises:
            DataError: Not a PIL image, or one of 32-bit values, whose white point is unknown.
        """
        if not isinstance(image, Image.Image):
            raise DataError(f"preprocess takes a PIL image, not {type(image).__name__}; open files with PIL.Image.open")
        return normalize_images(torch.from_numpy(centre_square(flatten_image(image), self.image_size).copy()))


class TextTokenizer(Protocol):
    """The tokenizer that `build_model` returns."""

    def encode(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        """int64 (N, T): start, text, end, padding; T is context_length, by default the longest text's."""


class AbsentTokenizer:
    """In place of the tokenizer of a folder that has none; images can be encoded without it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def encode(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        """Raises DataError."""
        raise DataError(f"{self._folder} has no {TOKENIZER}; add the model's own to encode texts")


def build_model(path_or_name: str | Path = "ViT-B/32") -> tuple[KelipModel, Preprocess, TextTokenizer]:
    """A trained model, the preprocessing of its images and its tokenizer.

    Args:
        path_or_name: A run folder; a folder that `kelip export` wrote; a folder in the layout of the official KELIP, of
            `transformers.CLIPModel` or of open_clip. If there is no such folder: `emoji`, the small model that ships
            with this package; `ViT-B/32`, the official weights, or the name of a Hugging Face repository with one of
            these layouts; both are downloaded once.

    Returns:
        The model in evaluation mode, float32 on the CPU; the preprocessing; the tokenizer.

    Raises:
        EncoderFileError: There is no such model, or its files are damaged or do not fit together.
        DataError: The tokenizer's files are damaged.

    Reference: navervision/KELIP, `kelip.build_model`.
    """
    folder = resolve_folder(path_or_name)
    found = load_model_folder(folder)
    image_size = found.model.image_encoder.config.image_size
    return KelipModel(found.model).eval(), Preprocess(image_size), found.tokenizer or AbsentTokenizer(folder)
