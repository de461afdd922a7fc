"""A model that training begins from: reading it with all checks, what it states, and its weights in a new model.

Training standardises images with CLIP's mean and standard deviation. A model that was trained with others keeps its
features: the difference is an affine map of the pixels, which its patch embedding absorbs.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_modules.paths import resolve_path
from data_modules.text.tokenizer import TOKENIZER, BilingualTokenizer, read_foreign_tokenizer
from kelip_lightning.errors import EncoderFileError, RunFolderError
from kelip_lightning.interchange.folder import ExportFormat, LoadedModel, load_model_folder
from kelip_lightning.interchange.formats.key_map import IMAGE, TEXT, Tensors
from kelip_lightning.interchange.model_names import resolve_folder
from kelip_lightning.interchange.stated_preprocessing import Statistics, stated_differences, stated_statistics
from kelip_lightning.models.config import DualEncoderConfig, PositionResampling
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import WEIGHTS, check_tensors
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD
from kelip_lightning.models.stored_config import config_to_dict
from kelip_lightning.models.text_encoder import resample_caption_positions
from kelip_lightning.models.vision_transformer import resample_positions
from kelip_lightning.runs.folder import RunFolder

LARGEST_LOGIT_SCALE_ERROR = 1e-6
"""Relative error of exp(logit_scale) in float32, which may exceed the bound that it was clamped to by as much."""
MIN_VOCAB_SIZE = 259
"""Smallest value of `tokenizer.vocab_size`, an upper bound."""
_PREFIXES = ("open_clip:hf-hub:", "open_clip:local-dir:", "transformers:")
"""What `kelip evaluate` puts before a folder or repository of another library."""
_IMAGE_POSITIONS = f"{IMAGE}.pos_embed"
_TEXT_POSITIONS = f"{TEXT}.embeddings.position_embedding.weight"
_PATCH_WEIGHT, _PATCH_BIAS = (f"{IMAGE}.patch_embed.proj.{name}" for name in ("weight", "bias"))


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialModel:
    """A model with its tokenizer, as its folder has them."""

    name: str
    """As configured."""
    folder: Path
    layout: str
    """`kelip-lightning`, or the other library's."""
    model: DualEncoder
    """float32, in evaluation mode, for images standardised as here."""
    tokenizer: BilingualTokenizer
    """With the model's context length."""
    sha256: str
    """Of the bytes of the weight file followed by those of the folder's tokenizer.json, if it has one."""
    folded: tuple[Statistics, Statistics] | None
    """The model's own mean and standard deviation of pixels, where they are not CLIP's."""

    def sections(self) -> dict[str, dict[str, Any]]:
        """Section of an experiment -> key -> the model's own value, plain."""
        tokens = {"vocab_size": max(MIN_VOCAB_SIZE, self.tokenizer.vocab_size)}
        return {
            "image_encoder": config_to_dict(self.model.image_encoder.config),
            "text_encoder": config_to_dict(self.model.text_encoder.config),
            "dual_encoder": self._dual_encoder(),
            "tokenizer": tokens | {"context_length": self.tokenizer.context_length},
        }

    def _dual_encoder(self) -> dict[str, Any]:
        stored = config_to_dict(self.model.config)
        if self.layout == _OWN:
            return stored
        # Other libraries store a temperature, but neither where it began nor its bound.
        scale, bound = self.model.scale().item(), DualEncoderConfig().max_logit_scale
        if scale > bound * (1 + LARGEST_LOGIT_SCALE_ERROR):
            bound = math.floor(scale) + 1.0
        temperature = max(float(f"{1 / scale:.6g}"), 1 / bound)
        return stored | {"max_logit_scale": bound, "initial_temperature": min(1.0, temperature)}


_OWN = "kelip-lightning"


def read_initial_model(name: str, tokenizer_file: str | None = None) -> InitialModel:
    """Read a model with all checks.

    Args:
        name: A folder or the name of a model, as `kelip evaluate` takes them.
        tokenizer_file: The model's tokenizer.json, for a folder without one.

    Raises:
        EncoderFileError: There is no such model, it is damaged, this package cannot represent it or its preprocessing,
            or it has no tokenizer, or another one than the file.
        DataError: The tokenizer's files are damaged.
    """
    folder = resolve_folder(_without_prefix(name))
    _refuse_unfinished(folder)
    given = None if tokenizer_file is None else resolve_path(tokenizer_file)
    found = load_model_folder(folder, given)
    tokenizer = _checked_tokenizer(folder, found, given)
    size = found.model.image_encoder.config.image_size
    if different := stated_differences(folder, size, with_statistics=False):
        raise EncoderFileError(
            f"{folder} states another preprocessing than that of this package ({'; '.join(different)})"
        )
    mean, std = stated_statistics(folder)
    folded = max(abs(a - b) for a, b in zip((*mean, *std), (*CLIP_MEAN, *CLIP_STD), strict=True)) > 1e-6
    if folded:
        _fold_standardisation(found.model, mean, std)
    return InitialModel(
        name=name,
        folder=folder,
        layout=_OWN if found.layout is None else found.layout.value,
        model=found.model,
        tokenizer=tokenizer,
        sha256=_sha256([found.weights, found.weights.with_name(TOKENIZER)]),
        folded=(mean, std) if folded else None,
    )


def _without_prefix(name: str) -> str:
    if not name.strip():
        raise EncoderFileError("the name of the model is empty; give a folder, ViT-B/32, or a repository")
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    if name.startswith("open_clip:"):
        raise EncoderFileError(
            "a model and a tag of open_clip name no folder with a configuration and a tokenizer; give its repository "
            "of the Hugging Face Hub, or a folder that open_clip.push_to_hf_hub.save_for_hf wrote"
        )
    return name


def _refuse_unfinished(folder: Path) -> None:
    run = RunFolder(folder)
    if run.config.is_file() and run.stages() and not (folder / WEIGHTS).is_file():
        try:
            RunFolder.open(folder)
        except RunFolderError as error:
            raise EncoderFileError(
                f"{error}, or write the weights of its newest checkpoint with kelip consolidate"
            ) from error


def _checked_tokenizer(folder: Path, found: LoadedModel, given: Path | None) -> BilingualTokenizer:
    if found.tokenizer is None:
        raise EncoderFileError(f"{folder} has no {TOKENIZER}; add the model's own, or name it with tokenizer.file=FILE")
    if given is None:
        return found.tokenizer
    official = found.layout is ExportFormat.kelip
    other = read_foreign_tokenizer(given, found.tokenizer.context_length, lowercase=official)
    if other.to_json() != found.tokenizer.to_json():
        raise EncoderFileError(
            f"tokenizer.file = {given} is not the tokenizer of {folder}, which the weights were trained with; remove "
            "tokenizer.file"
        )
    return found.tokenizer


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


@torch.no_grad()
def _fold_standardisation(model: DualEncoder, mean: Statistics, std: Statistics) -> None:
    """Make a model for images of this mean and deviation one for images standardised with CLIP's.

    With x = (p - m) / s here and y = (p - m') / s' there, y = (s / s') x + (m - m') / s': the patch embedding is scaled
    per channel, and the constant goes into its bias, or where it has none into the positions of the patches.
    """
    weights: Tensors = model.state_dict()
    own_mean, own_std, mean_C, std_C = (torch.tensor(one).double() for one in (CLIP_MEAN, CLIP_STD, mean, std))
    kernel_DCPP = weights[_PATCH_WEIGHT].double()
    constant_D = torch.einsum("dcpq,c->d", kernel_DCPP, (own_mean - mean_C) / std_C)
    weights[_PATCH_WEIGHT].copy_(kernel_DCPP * (own_std / std_C).view(-1, 1, 1))
    receiver = weights.get(_PATCH_BIAS)
    if receiver is None:
        receiver = weights[_IMAGE_POSITIONS][:, model.image_encoder.num_prefix_tokens :]
    receiver.add_(constant_D)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What was loaded from a model, and what was not."""

    tensors: int
    """Tensors with the model's values, resampled ones included."""
    parameters: int
    resampled: Mapping[str, str] = field(default_factory=dict)
    """Table of positions -> `FROM -> TO`."""
    new: tuple[str, ...] = ()
    """Parameters that the model does not have, with their configured initial value."""
    left_out: tuple[str, ...] = ()
    """Parameters of the model that are not used."""


def load_initial_weights(model: DualEncoder, initial: InitialModel) -> LoadReport:
    """Copy the weights of a model into a new one strictly; position tables of other sizes are resampled.

    Args:
        model: Of the same architecture, but for image size, context length and logit bias.
        initial: The model to begin from.

    Raises:
        EncoderFileError: Tensors are missing, unexpected or of another shape.
    """
    weights, resampled = dict(initial.model.state_dict()), {}
    own: Mapping[str, Tensor] = model.state_dict()
    resample = {_IMAGE_POSITIONS: _image_positions, _TEXT_POSITIONS: _text_positions}
    for name, function in resample.items():
        if name in weights and name in own and weights[name].shape != own[name].shape:
            weights[name], resampled[name] = function(weights[name], model, initial.model)
    new = [name for name in ("logit_bias",) if name in own and name not in weights]
    left_out = [name for name in ("logit_bias",) if name in weights and name not in own]
    weights |= {name: own[name] for name in new}
    for name in left_out:
        del weights[name]
    check_tensors(own, weights, initial.folder)
    model.load_state_dict(weights, strict=True)
    loaded = {name: tensor for name, tensor in weights.items() if name not in new}
    return LoadReport(
        tensors=len(loaded),
        parameters=sum(tensor.numel() for tensor in loaded.values()),
        resampled=resampled,
        new=tuple(new),
        left_out=tuple(left_out),
    )


def _image_positions(stored_1LD: Tensor, model: DualEncoder, initial: DualEncoder) -> tuple[Tensor, str]:
    config, vit = initial.image_encoder.config, initial.image_encoder.vit
    grids = [one.image_encoder.vit.patch_embed.grid_size for one in (initial, model)]
    resampled = resample_positions(
        stored_1LD,
        *grids,
        num_prefix_tokens=0 if vit.no_embed_class else initial.image_encoder.num_prefix_tokens,
        official=config.position_resampling is PositionResampling.official,
    )
    return resampled, " -> ".join(f"{rows} x {columns}" for rows, columns in grids)


def _text_positions(stored_LD: Tensor, model: DualEncoder, _: DualEncoder) -> tuple[Tensor, str]:
    length = model.text_encoder.context_length
    return resample_caption_positions(stored_LD, length), f"{len(stored_LD)} -> {length}"
