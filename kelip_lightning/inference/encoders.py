"""`load_encoders`: any model that `kelip evaluate` takes, as functions from images and texts to embeddings."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from data_modules.benchmarks.image_stream import EvaluationTransform
from kelip_lightning.distributed.accelerators import AUTO
from kelip_lightning.errors import EncoderFileError, RunFolderError
from kelip_lightning.evaluation.embed import image_encode_function, text_encode_function
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.build_model import build_model
from kelip_lightning.inference.onnx_models import ONNX, load_onnx
from kelip_lightning.inference.open_clip_models import CONFIG as OPEN_CLIP_CONFIG
from kelip_lightning.inference.open_clip_models import HUB, LOCAL, OPEN_CLIP, load_open_clip
from kelip_lightning.inference.precision import InferencePrecision
from kelip_lightning.inference.transformers_models import TRANSFORMERS, load_transformers
from kelip_lightning.interchange.folder import is_model_folder
from kelip_lightning.interchange.formats.architecture import read_json
from kelip_lightning.interchange.model_names import resolve_folder
from kelip_lightning.interchange.reasons import short_reason
from kelip_lightning.interchange.stated_preprocessing import stated_differences
from kelip_lightning.models.kernels import fast_attention
from kelip_lightning.models.model_folder import WEIGHTS
from kelip_lightning.runs.folder import RunFolder

PREFIXED_FORMS = (
    f"{OPEN_CLIP}:NAME:PRETRAINED, {OPEN_CLIP}:{HUB}ORG/NAME, {OPEN_CLIP}:{LOCAL}FOLDER, "
    f"{TRANSFORMERS}:FOLDER_OR_REPOSITORY or {ONNX}:FOLDER"
)
"""The forms of MODEL for other libraries."""

_LOADERS: Mapping[str, Callable[[str, InferencePrecision], Encoders]] = {
    OPEN_CLIP: load_open_clip,
    TRANSFORMERS: load_transformers,
    ONNX: load_onnx,
}
"""Prefix of MODEL -> what loads the rest of it."""

FLOAT32 = "32"
_TRANSFORMERS_CONFIG = "config.json"


def load_encoders(name: str, device: torch.device, precision: str | None = None) -> Encoders:
    """Load a model for evaluation, with its own preprocessing and tokenizer.

    Args:
        name: MODEL of the command line. Without a prefix: whatever `build_model` takes, or a folder or repository of
            another model of transformers. `open_clip:...` and `transformers:...` use these libraries,
            `onnx:...` onnxruntime.
        device: Where the model computes.
        precision: One of `accelerators.PRECISIONS`; `None`: for a run that of its contrastive training, else float32.

    Raises:
        EncoderFileError: There is no such model, it cannot be downloaded, its library is not installed, or its files
            are damaged or do not fit together.
        DataError: The files of a tokenizer of ours are damaged.
        ValueError: The precision is none of `PRECISIONS`.
    """
    if not name.strip():
        raise EncoderFileError(
            f"the name of the model is empty; give a folder, ViT-B/32, a repository, {PREFIXED_FORMS}"
        )
    library, colon, source = name.partition(":")
    if colon and library in _LOADERS:
        if not source:
            raise EncoderFileError(f"{name} names no model; give {PREFIXED_FORMS}")
        return _LOADERS[library](source, InferencePrecision.choose(precision or FLOAT32, device))
    try:
        folder = resolve_folder(name)
    except EncoderFileError as error:
        raise EncoderFileError(f"{error}, or for other libraries {PREFIXED_FORMS}") from error
    other = _other_library(folder)
    if other is not None and not is_model_folder(folder):
        return replace(load_encoders(other, device, precision), name=name)
    run = _finished_run(folder)
    trained = FLOAT32 if run is None or precision else _training_precision(run)
    chosen = InferencePrecision.choose(precision or trained, device)
    try:
        return _our_encoders(name, folder, chosen)
    except EncoderFileError as error:
        # In a layout that is another library's too: a model or a preprocessing that this package cannot represent.
        hint = (
            f"{other} loads it with its own library"
            if other is not None
            else f"models of other libraries are {PREFIXED_FORMS}"
        )
        raise EncoderFileError(f"{error}; {hint}") from error


def _our_encoders(name: str, folder: Path, precision: InferencePrecision) -> Encoders:
    model, preprocess, tokenizer = build_model(folder)
    if different := stated_differences(folder, preprocess.image_size):
        raise EncoderFileError(
            f"{folder} states another preprocessing than that of this package ({'; '.join(different)})"
        )
    logit_scale = model.dual_encoder.scale().item()
    model.to(precision.device, precision.dtype)

    @contextmanager
    def arithmetic() -> Iterator[None]:
        with precision.autocast(), fast_attention(precision.device):
            yield

    own = model.dual_encoder
    return Encoders(
        name=name,
        preprocess=EvaluationTransform(preprocess.image_size),
        encode_images=torch.no_grad()(image_encode_function(own, arithmetic, l2norm=False)),
        encode_texts=torch.no_grad()(text_encode_function(own, tokenizer, arithmetic, l2norm=False)),
        logit_scale=logit_scale,
        device=precision.device,
    )


def _other_library(folder: Path) -> str | None:
    """MODEL that loads a folder with the library whose layout it has; `None`: no layout of another library."""
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return f"{OPEN_CLIP}:{LOCAL}{folder}"
    file = folder / _TRANSFORMERS_CONFIG
    return f"{TRANSFORMERS}:{folder}" if file.is_file() and "model_type" in read_json(file) else None


def _finished_run(folder: Path) -> RunFolder | None:
    """The run in a folder; `None`: the folder is no run. EncoderFileError if the run has no finished model."""
    run = RunFolder(folder)
    if not run.config.is_file() or not run.stages() or (folder / WEIGHTS).is_file():
        return None
    try:
        return RunFolder.open(folder)
    except RunFolderError as error:
        raise EncoderFileError(str(error)) from error


def _training_precision(run: RunFolder) -> str:
    """The precision of a run's contrastive training; for `auto`, what `plan.yaml` records that it was there."""
    tree = _read_yaml(run.config)
    configured = _value(_value(tree, "contrastive") or tree, "trainer", "precision")
    return _planned_precision(run) if configured in (None, AUTO) else str(configured)


def _planned_precision(run: RunFolder) -> str:
    plan = _read_yaml(run.plan) if run.plan.is_file() else None
    planned = _value(plan, "stages", "contrastive", "precision")
    return {"32-true": FLOAT32}.get(planned, planned) if isinstance(planned, str) else AUTO


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise EncoderFileError(f"{file} is damaged ({short_reason(error)})") from error


def _value(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
