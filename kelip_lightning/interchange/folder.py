"""Model folders of any layout: loading, and export for other libraries; `formats` has one module per library."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_modules.text.tokenizer import TOKENIZER, BilingualTokenizer, read_foreign_tokenizer, tokenizer_files
from kelip_lightning.errors import EncoderFileError, ExportError
from kelip_lightning.interchange.formats import kelip, open_clip, transformers
from kelip_lightning.interchange.formats.architecture import Architecture, build_architecture
from kelip_lightning.interchange.formats.key_map import Entry, Tensors, to_ours, to_theirs
from kelip_lightning.interchange.onnx_towers import Agreement, write_onnx_folder
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import WEIGHTS, check_tensors, load_dual_encoder
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD
from kelip_lightning.models.stored_config import CONFIG
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.model_card import export_card

PREPROCESSING = "preprocessor_config.json"
_COUNTERS = ("position_ids", "attn_mask")
"""Buffers of older library versions without weights; tensors whose names end so are ignored."""


class ExportFormat(Enum):
    """Layouts of other libraries."""

    transformers = "transformers"
    open_clip = "open_clip"
    kelip = "kelip"


class _Format(Protocol):
    """A module of `formats`."""

    @property
    def WEIGHTS(self) -> Sequence[str]:  # noqa: N802 - a constant of the module
        """Names of the weight file, in order of preference; the first is written."""

    def recognises(self, folder: Path) -> bool: ...
    def read_architecture(self, folder: Path) -> Architecture: ...
    def entries(self, architecture: Architecture) -> list[Entry]: ...
    def refusals(self, architecture: Architecture) -> Iterator[str]: ...
    def config_files(self, architecture: Architecture) -> dict[str, Any]: ...


_FORMATS: dict[ExportFormat, _Format] = {
    # open_clip first: its folders may hold a config.json for other libraries too.
    ExportFormat.open_clip: open_clip,
    ExportFormat.transformers: transformers,
    ExportFormat.kelip: kelip,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode, and its tokenizer if the folder has one."""

    model: DualEncoder
    tokenizer: BilingualTokenizer | None
    layout: ExportFormat | None = None
    """`None`: this package's own."""
    weights: Path
    """The file that was read."""


def load_model_folder(folder: Path, tokenizer_file: Path | None = None) -> LoadedModel:
    """Load the model of a folder in any known layout.

    Args:
        folder: A run folder, its `contrastive/dual_encoder`, an exported folder, or one in the layout of the official
            KELIP, of `transformers.CLIPModel` or of open_clip.
        tokenizer_file: The model's tokenizer, for a folder of another library without one.

    Raises:
        EncoderFileError: The folder is missing or of no known layout, or tensors are missing, unexpected or of another
            shape.
        DataError: The tokenizer's files are damaged.
    """
    if not folder.is_dir():
        raise EncoderFileError(f"model folder {folder} does not exist; give a run folder or a folder with a model")
    if (ours := _own_folder(folder)) is not None:
        trained = load_dual_encoder(ours)
        return LoadedModel(model=trained.model, tokenizer=trained.tokenizer, weights=ours / WEIGHTS)
    if (layout := _foreign_layout(folder)) is None:
        raise EncoderFileError(
            f"{folder} holds no model that this suite can read: it is neither a finished run, nor has it an "
            "open_clip_config.json, nor a config.json of a CLIPModel or of the official KELIP"
        )
    return load_foreign_model(folder, layout, tokenizer_file)


def is_model_folder(folder: Path) -> bool:
    """Whether `load_model_folder` knows the folder's layout; EncoderFileError if its config.json is damaged."""
    return folder.is_dir() and (_own_folder(folder) is not None or _foreign_layout(folder) is not None)


def _own_folder(folder: Path) -> Path | None:
    own = RunFolder(folder).dual_encoder
    ours = own if own.is_dir() else folder
    return ours if (ours / CONFIG).is_file() and (ours / WEIGHTS).is_file() else None


def _foreign_layout(folder: Path) -> ExportFormat | None:
    return next((name for name, one in _FORMATS.items() if one.recognises(folder)), None)


def load_foreign_model(folder: Path, name: ExportFormat, tokenizer_file: Path | None = None) -> LoadedModel:
    """Load a folder in another library's layout strictly; the model is float32; arguments as of `load_model_folder`.

    Raises:
        EncoderFileError: The configuration has no equivalent here, or tensors are missing, unexpected or of another
            shape, or the tokenizer does not fit the embedding.
        DataError: The tokenizer's files are damaged.
    """
    layout = _FORMATS[name]
    try:
        architecture = layout.read_architecture(folder)
    except EncoderFileError:
        raise
    except (ValueError, ZeroDivisionError) as error:
        raise EncoderFileError(f"{folder}: the configuration makes no model: {error}") from error
    file = _weight_file(folder, layout.WEIGHTS)
    found = _read_foreign_weights(file)
    scale = [tensor for key, tensor in found.items() if key.endswith("logit_scale")]
    model = build_architecture(architecture, float(scale[0].reshape(-1)[0]) if scale else 0.0)
    entries = layout.entries(architecture)
    # Compared with the library's names and shapes, so that error messages have them.
    check_tensors(to_theirs(entries, _outward(dict(model.state_dict()), name)), found, folder)
    weights = to_ours(entries, found)
    if name is ExportFormat.open_clip:
        weights = open_clip.add_patch_bias(weights, architecture)
    model.load_state_dict(weights, strict=True)
    tokenizer = _read_tokenizer(folder, architecture, name, tokenizer_file)
    return LoadedModel(model=model.eval(), tokenizer=tokenizer, layout=name, weights=file)


def _outward(weights: Tensors, name: ExportFormat) -> Tensors:
    return open_clip.fold_patch_bias(weights) if name is ExportFormat.open_clip else weights


def _weight_file(folder: Path, names: Sequence[str]) -> Path:
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise EncoderFileError(f"{folder} holds no weights; one of {', '.join(names)} is needed, in one piece")
    return file


def _read_foreign_weights(file: Path) -> Tensors:
    """The tensors of a file, float32; pickles may hold tensors only."""
    try:
        loaded = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise EncoderFileError(f"{file} is damaged ({_reason(error)}): copy it again") from error
    except Exception as error:  # pickle.UnpicklingError, and what malformed pickles raise
        raise EncoderFileError(
            f"{file} cannot be read as plain tensors ({_reason(error)}): convert it to safetensors"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(one, Tensor) for one in loaded.values()):
        raise EncoderFileError(f"{file} must hold tensors by name and nothing else")
    return {name: tensor.float() for name, tensor in loaded.items() if not name.endswith(_COUNTERS)}


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _read_tokenizer(
    folder: Path, architecture: Architecture, name: ExportFormat, given: Path | None
) -> BilingualTokenizer | None:
    file = folder / TOKENIZER if given is None or (folder / TOKENIZER).is_file() else given
    if given is None and not file.is_file():
        return None
    official = name is ExportFormat.kelip
    tokenizer = read_foreign_tokenizer(file, architecture.context_length, lowercase=official)
    if tokenizer.vocab_size != architecture.vocab_size or tokenizer.eot_id != architecture.eot_id:
        raise EncoderFileError(
            f"{file} has {tokenizer.vocab_size} tokens and its end token at {tokenizer.eot_id}, but the "
            f"model's embedding has {architecture.vocab_size} rows and its end token at {architecture.eot_id}; "
            "give the tokenizer that the model was trained with"
        )
    return tokenizer


def export_model(
    source: Path, name: ExportFormat, output: Path, *, dtype: torch.dtype = torch.float32, notes: str = ""
) -> None:
    """Export the model of a run, or of any other readable folder, for another library.

    Args:
        source: A run folder, or a folder with a model.
        name: The layout.
        output: Folder to write, atomically; new or empty.
        dtype: Of the stored weights; loading makes them float32.
        notes: Markdown to add to the model card.

    Raises:
        ExportError: The output is not empty, or the layout cannot express the model, or there is no tokenizer.
        EncoderFileError, DataError: The source holds no model, or is damaged.
    """
    model, tokenizer = _exportable(source, output)
    write_foreign_folder(output, model, tokenizer, name, export_card(source, name.value, notes), dtype)


def export_onnx(source: Path, output: Path, *, int8: bool, notes: str = "") -> Agreement:
    """Export the towers of a model as ONNX graphs; source, output and errors as of `export_model`.

    Args:
        source: A run folder, or a folder with a model.
        output: Folder to write, atomically; new or empty.
        int8: See `write_onnx_folder`.
        notes: Markdown to add to the model card.
    """
    model, tokenizer = _exportable(source, output)
    return write_onnx_folder(output, model, tokenizer, export_card(source, "onnx", notes), int8=int8)


def _exportable(source: Path, output: Path) -> tuple[DualEncoder, BilingualTokenizer]:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ExportError(f"--output {output} is there already, and is left as it is; name a new or an empty folder")
    found = load_model_folder(source)
    if found.tokenizer is None:
        raise ExportError(f"{source} holds no tokenizer.json, without which the exported model could not read texts")
    return found.model, found.tokenizer


def write_foreign_folder(
    output: Path,
    model: DualEncoder,
    tokenizer: BilingualTokenizer,
    name: ExportFormat,
    card: str,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model for another library, with tokenizer, preprocessing and model card (the text of README.md).

    Raises:
        ExportError: The layout cannot express the model, with every reason; or a weight is too large for the dtype.
    """
    architecture = _architecture_of(model, tokenizer)
    weights = {key: _stored(key, one, dtype) for key, one in _foreign_weights(model, architecture, name).items()}
    configs = _FORMATS[name].config_files(architecture)
    if name is not ExportFormat.open_clip:  # whose configuration includes it
        configs = configs | {PREPROCESSING: preprocessing(model.image_encoder.config.image_size)}
    texts = tokenizer_files(tokenizer) | {"README.md": card}
    texts |= {file: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for file, content in configs.items()}
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        # transformers refuses a file without the framework in its metadata.
        save_file(weights, partial / _FORMATS[name].WEIGHTS[0], metadata={"format": "pt"})
        for file, text in texts.items():
            (partial / file).write_text(text, encoding="utf-8")
        partial.replace(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _stored(key: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    stored = weight.to(dtype)
    if not stored.isfinite().all() and weight.isfinite().all():
        raise ExportError(f"{key} has values that {str(dtype).removeprefix('torch.')} cannot hold; export float32")
    return stored


def _architecture_of(model: DualEncoder, tokenizer: BilingualTokenizer) -> Architecture:
    return Architecture(
        image=model.image_encoder.config,
        text=model.text_encoder.config,
        embed_dim=model.config.embed_dim,
        vocab_size=model.text_encoder.vocab_size,
        context_length=tokenizer.context_length,
        eot_id=tokenizer.eot_id,
        pad_id=tokenizer.pad_id,
        logit_bias=None if model.logit_bias is None else model.logit_bias.item(),
    )


def _foreign_weights(model: DualEncoder, architecture: Architecture, name: ExportFormat) -> Tensors:
    others = {
        "image_encoder.timm_name": architecture.image.timm_name,
        "text_encoder.hf_model": architecture.text.hf_model,
    }
    layout = _FORMATS[name]
    reasons = [f"{key} must be null" for key, value in others.items() if value is not None]
    if reasons := reasons or list(layout.refusals(architecture)):
        raise ExportError(f"this model cannot be written in the layout of {name.value}: {'; '.join(reasons)}")
    entries, weights = layout.entries(architecture), _outward(model.state_dict(), name)
    if unknown := sorted(set(weights) - {key for one in entries for key in one.ours}):
        raise ExportError(f"the layout of {name.value} has no place for {', '.join(unknown)} of this model")
    return {key: tensor.cpu().contiguous() for key, tensor in to_theirs(entries, weights).items()}


def preprocessing(image_size: int) -> Mapping[str, object]:
    """The preprocessing of every evaluation here, for `transformers.CLIPImageProcessor`."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }
