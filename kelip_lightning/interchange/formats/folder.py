"""Folders in the layouts of other libraries, in and out; what is specific to a format stands in its own file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data_modules.text.tokenizer import TOKENIZER, BilingualTokenizer, read_tokenizer_folder
from kelip_lightning.errors import EncoderFileError, ExportError
from kelip_lightning.interchange.formats import kelip, open_clip, transformers
from kelip_lightning.interchange.formats.architecture import Architecture, build_architecture
from kelip_lightning.interchange.formats.key_map import Entry, Tensors, to_ours, to_theirs
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.weights_folder import check_tensors


class ExportFormat(Enum):
    """The layouts that a model can be written in, beside this suite's own."""

    transformers = "transformers"
    open_clip = "open_clip"
    kelip = "kelip"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    recognises: Callable[[Path], bool]
    read_architecture: Callable[[Path], Architecture]
    entries: Callable[[Architecture], list[Entry]]
    refusals: Callable[[Architecture], Iterator[str]]
    config_files: Callable[[Architecture], dict[str, Any]]
    outward: Callable[[Tensors], Tensors] = lambda weights: weights
    """What becomes of our tensors before their names are changed."""
    inward: Callable[[Tensors, Architecture], Tensors] = lambda weights, _: weights
    """What becomes of theirs after their names are changed."""
    weights: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    """Names of the weight file in the order in which they are looked for; the first is the one that is written."""


_FORMATS = {
    # open_clip first: its folders may hold a config.json for other libraries too.
    ExportFormat.open_clip: _Format(
        recognises=open_clip.recognises,
        read_architecture=open_clip.read_architecture,
        entries=open_clip.entries,
        refusals=open_clip.refusals,
        config_files=open_clip.config_files,
        outward=open_clip.outward,
        inward=open_clip.inward,
        # A folder for both libraries holds transformers' own tensors in model.safetensors: that name comes late.
        weights=(
            "open_clip_model.safetensors",
            "open_clip_pytorch_model.safetensors",
            "open_clip_pytorch_model.bin",
            "model.safetensors",
            "pytorch_model.bin",
        ),
    ),
    ExportFormat.transformers: _Format(
        recognises=transformers.recognises,
        read_architecture=transformers.read_architecture,
        entries=transformers.entries,
        refusals=transformers.refusals,
        config_files=transformers.config_files,
    ),
    ExportFormat.kelip: _Format(
        recognises=kelip.recognises,
        read_architecture=kelip.read_architecture,
        entries=kelip.entries,
        refusals=kelip.refusals,
        config_files=kelip.config_files,
    ),
}

_COUNTERS = ("position_ids", "attn_mask")
"""Buffers of older library versions that hold no weights; a tensor whose name ends so is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignModel:
    """What a folder of another library holds."""

    model: DualEncoder
    tokenizer: BilingualTokenizer | None
    """None where the folder has no tokenizer.json."""


def detect_format(folder: Path) -> ExportFormat | None:
    """The layout of a folder; None if it is none of them.

    Raises:
        EncoderFileError: Its configuration is no JSON.
    """
    return next((name for name, one in _FORMATS.items() if one.recognises(folder)), None)


def load_foreign_model(folder: Path, name: ExportFormat) -> ForeignModel:
    """Read a folder in another library's layout, strictly; the model is float32 and in evaluation mode.

    Raises:
        EncoderFileError: The configuration asks for what our model has not, or a tensor is missing, left over or of
            another shape, or the tokenizer does not fit the embedding.
        DataError: The tokenizer's files are damaged.
    """
    layout = _FORMATS[name]
    try:
        architecture = layout.read_architecture(folder)
    except EncoderFileError:
        raise
    except (ValueError, ZeroDivisionError) as error:
        raise EncoderFileError(f"{folder}: the configuration makes no model: {error}") from error
    found = read_foreign_weights(folder, layout.weights)
    scale = [tensor for key, tensor in found.items() if key.endswith("logit_scale")]
    model = build_architecture(architecture, float(scale[0].reshape(-1)[0]) if scale else 0.0)
    entries = layout.entries(architecture)
    # Names and shapes as that library has them, so that a mistake is told in its words.
    expected = to_theirs(entries, layout.outward(dict(model.state_dict())))
    check_tensors(expected, found, folder)
    model.load_state_dict(layout.inward(to_ours(entries, found), architecture), strict=True)
    return ForeignModel(model=model.eval(), tokenizer=_read_tokenizer(folder, architecture, name))


def read_foreign_weights(folder: Path, names: Sequence[str]) -> Tensors:
    """The tensors of a folder's weight file, float32; nothing is unpickled but tensors.

    Args:
        folder: Where the file stands.
        names: What it may be called, the best first.

    Raises:
        EncoderFileError: There is no such file, it is damaged, or holds more than tensors.
    """
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise EncoderFileError(f"{folder} holds no weights; one of {', '.join(names)} is needed, in one piece")
    try:
        loaded = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise EncoderFileError(f"{file} is damaged ({_reason(error)}): copy it again") from error
    except Exception as error:  # pickle.UnpicklingError and what malformed pickles raise besides
        raise EncoderFileError(
            f"{file} cannot be read as plain tensors ({_reason(error)}): convert it to safetensors"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(one, Tensor) for one in loaded.values()):
        raise EncoderFileError(f"{file} must hold tensors by name and nothing else")
    return {name: tensor.float() for name, tensor in loaded.items() if not name.endswith(_COUNTERS)}


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _read_tokenizer(folder: Path, architecture: Architecture, name: ExportFormat) -> BilingualTokenizer | None:
    if not (folder / TOKENIZER).is_file():
        return None
    official = name is ExportFormat.kelip
    tokenizer = read_tokenizer_folder(folder, architecture.context_length, lowercase=official)
    if tokenizer.vocab_size != architecture.vocab_size or tokenizer.eot_id != architecture.eot_id:
        raise EncoderFileError(
            f"{folder / TOKENIZER} has {tokenizer.vocab_size} tokens and its end token at {tokenizer.eot_id}, but the "
            f"model's embedding has {architecture.vocab_size} rows and its end token at {architecture.eot_id}; "
            "give the tokenizer that the model was trained with"
        )
    return tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFolder:
    """A model in another library's layout, ready to be written."""

    weights: Tensors
    weights_file: str
    """Name of the safetensors file."""
    config_files: dict[str, Any]
    """JSON file name -> content."""


def describe_foreign_model(model: DualEncoder, tokenizer: BilingualTokenizer, name: ExportFormat) -> ForeignFolder:
    """A model's weights and configuration in another library's layout.

    Raises:
        ExportError: The layout cannot express the model; lists everything that it cannot.
    """
    layout, image, text = _FORMATS[name], model.image_encoder.config, model.text_encoder.config
    architecture = Architecture(
        image=image,
        text=text,
        embed_dim=model.config.embed_dim,
        vocab_size=model.text_encoder.vocab_size,
        context_length=tokenizer.context_length,
        eot_id=tokenizer.eot_id,
        pad_id=tokenizer.pad_id,
        logit_bias=None if model.logit_bias is None else model.logit_bias.item(),
    )
    reasons = [f"{key} must be null" for key, value in _other_towers(model) if value is not None]
    if reasons := reasons or list(layout.refusals(architecture)):
        raise ExportError(f"this model cannot be written in the layout of {name.value}: {'; '.join(reasons)}")
    entries, weights = layout.entries(architecture), layout.outward(model.state_dict())
    if unknown := sorted(set(weights) - {key for one in entries for key in one.ours}):
        raise ExportError(f"the layout of {name.value} has no place for {', '.join(unknown)} of this model")
    return ForeignFolder(
        weights=to_theirs(entries, weights),
        weights_file=layout.weights[0],
        config_files=layout.config_files(architecture),
    )


def _other_towers(model: DualEncoder) -> list[tuple[str, str | None]]:
    return [
        ("image_encoder.timm_name", model.image_encoder.config.timm_name),
        ("text_encoder.hf_model", model.text_encoder.config.hf_model),
    ]
