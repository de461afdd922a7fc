"""Models of open_clip, with its own preprocessing and tokenizer; the package is optional.

Reference: mlfoundations/open_clip, `create_model_from_pretrained` and `get_tokenizer`.
"""

import difflib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.image_files import PillowTransform
from kelip_lightning.inference.precision import InferencePrecision
from kelip_lightning.inference.transformers_models import is_without_words
from kelip_lightning.interchange.reasons import short_reason

OPEN_CLIP = "open_clip"
HUB, LOCAL = "hf-hub:", "local-dir:"
CONFIG = "open_clip_config.json"
_MAX_SHOWN = 8
"""Tags named in a message."""


def load_open_clip(source: str, precision: InferencePrecision) -> Encoders:
    """Load a model with open_clip.

    Args:
        source: `MODEL:PRETRAINED`, where PRETRAINED is a tag or the path of a checkpoint; `hf-hub:ORG/NAME`;
            `local-dir:FOLDER`.
        precision: Of weights and forward passes.

    Raises:
        EncoderFileError: open_clip is not installed, or has no such model or weights, or they cannot be read or
            downloaded.
    """
    if importlib.util.find_spec(OPEN_CLIP) is None:
        raise EncoderFileError(
            f"{OPEN_CLIP}:{source} needs open_clip, which is not installed: pip install open_clip_torch"
        )
    import open_clip

    model_name, weights = _checked(open_clip, source)
    try:
        model, transform = open_clip.create_model_from_pretrained(
            model_name,
            weights,
            precision="pure_bf16" if precision.dtype is torch.bfloat16 else "fp32",
            device=precision.device,
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    except MemoryError:
        raise
    except Exception as error:  # open_clip wraps every cause, downloads included, in RuntimeError and ValueError
        raise EncoderFileError(f"open_clip cannot load {source} ({short_reason(error)})") from error
    if (words := getattr(tokenizer, "tokenizer", None)) is not None and is_without_words(words):
        raise EncoderFileError(
            f"{source} holds no tokenizer that transformers can read; add the files of the model's own"
        )
    return _encoders(source, model.eval(), transform, tokenizer, precision)


def _encoders(source: str, model: Any, transform: Any, tokenizer: Any, precision: InferencePrecision) -> Encoders:
    @torch.no_grad()
    def encode_images(images: Tensor) -> Tensor:
        with precision.autocast():
            features: Tensor = model.encode_image(images.to(precision.device, precision.dtype), normalize=False)
        return features

    @torch.no_grad()
    def encode_texts(texts: list[str]) -> Tensor:
        with precision.autocast():
            features: Tensor = model.encode_text(tokenizer(texts).to(precision.device), normalize=False)
        return features

    return Encoders(
        name=f"{OPEN_CLIP}:{source}",
        preprocess=PillowTransform(transform),
        encode_images=encode_images,
        encode_texts=encode_texts,
        logit_scale=model.logit_scale.detach().float().exp().item(),
        device=precision.device,
    )


def _checked(open_clip: Any, source: str) -> tuple[str, str | None]:
    """open_clip's names of the model and of its weights, known to it or on disk.

    Deviation: where open_clip warns that a tag was trained with the other activation (OpenAI's weights need QuickGELU),
    the model is refused, because its features would be wrong.
    """
    if source.startswith(HUB):
        return source, None
    if source.startswith(LOCAL):
        folder = Path(source.removeprefix(LOCAL)).expanduser()
        if not folder.is_dir():
            raise EncoderFileError(f"model folder {folder} does not exist; give {OPEN_CLIP}:{LOCAL}FOLDER")
        if not (folder / CONFIG).is_file():
            raise EncoderFileError(f"{folder} has no {CONFIG}; give a folder with a model of open_clip")
        return f"{LOCAL}{folder}", None
    name, _, weights = source.partition(":")
    name = name.replace("/", "-")
    if open_clip.get_model_config(name) is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=1)
        hint = f"did you mean {close[0]}?" if close else "open_clip.list_models() lists them"
        raise EncoderFileError(f"open_clip has no model {name}; {hint}")
    if weights and open_clip.get_pretrained_cfg(name, weights):
        _check_activation(open_clip, name, weights)
        return name, weights
    if weights and Path(weights).expanduser().is_file():
        return name, str(Path(weights).expanduser())
    if weights:
        raise EncoderFileError(
            f"open_clip has no weights {weights} of {name}, nor is there such a file; {_tags(open_clip, name)}"
        )
    raise EncoderFileError(f"{OPEN_CLIP}:{source} names no weights; {_tags(open_clip, name)}")


def _check_activation(open_clip: Any, name: str, tag: str) -> None:
    of_model = open_clip.get_model_config(name).get("quick_gelu", False)
    of_weights = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
    other = f"{name}-quickgelu" if of_weights else name.removesuffix("-quickgelu")
    # roberta-ViT-B-32, the only model without a counterpart, is right about itself.
    if of_model == of_weights or other == name or open_clip.get_model_config(other) is None:
        return
    trained, built = ("QuickGELU", "GELU") if of_weights else ("GELU", "QuickGELU")
    raise EncoderFileError(
        f"{OPEN_CLIP}:{name}:{tag} was trained with {trained}, but the model {name} has {built}; "
        f"give {OPEN_CLIP}:{other}:{tag}"
    )


def _tags(open_clip: Any, name: str) -> str:
    tags = open_clip.list_pretrained_tags_by_model(name)
    shown = ", ".join(tags[:_MAX_SHOWN]) + (", ..." if len(tags) > _MAX_SHOWN else "")
    give = f"give {OPEN_CLIP}:{name}:CHECKPOINT with the path of a file"
    return f"{give}, or one of the tags {shown}" if tags else give
