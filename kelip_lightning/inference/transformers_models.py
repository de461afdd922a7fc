"""Image–text models of transformers (CLIP, SigLIP, AltCLIP, Chinese-CLIP, ...), with their own processors.

Reference: huggingface/transformers, `get_image_features` and `get_text_features`; padding as in
`ZeroShotImageClassificationPipeline`.
"""

import functools
import inspect
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.image_files import PillowTransform
from kelip_lightning.inference.precision import InferencePrecision
from kelip_lightning.interchange.reasons import short_reason

TRANSFORMERS = "transformers"


def load_transformers(source: str, precision: InferencePrecision) -> Encoders:
    """Load a model with `AutoModel`, `AutoImageProcessor` and `AutoTokenizer`; code of the repository is not run.

    Args:
        source: A folder, or the name of a Hugging Face repository.
        precision: Of weights and forward passes.

    Raises:
        EncoderFileError: There is no such model, a file is missing or damaged, tensors are missing, or the model does
            not embed single images and texts.
    """
    model = _load_model(source, precision)
    processor = _load_part("AutoImageProcessor", source)
    tokenizer = _load_part("AutoTokenizer", source)
    if is_without_words(tokenizer):
        raise EncoderFileError(
            f"{source} holds no tokenizer that transformers can read; add the files of the model's own"
        )
    transform = functools.partial(_pixel_values, processor=processor)
    _check_transform(source, transform)
    logit_scale = _logit_scale(source, model)
    padding = _text_padding(model, tokenizer)
    accepted = set(inspect.signature(model.get_text_features).parameters)

    @torch.no_grad()
    def encode_images(images: Tensor) -> Tensor:
        with precision.autocast():
            output = model.get_image_features(pixel_values=images.to(precision.device, precision.dtype))
        return _features(output, source)

    @torch.no_grad()
    def encode_texts(texts: list[str]) -> Tensor:
        encoded = tokenizer(texts, return_tensors="pt", truncation=True, **padding)
        inputs = {name: tensor.to(precision.device) for name, tensor in encoded.items() if name in accepted}
        with precision.autocast():
            output = model.get_text_features(**inputs)
        return _features(output, source)

    return Encoders(
        name=f"{TRANSFORMERS}:{source}",
        preprocess=PillowTransform(transform),
        encode_images=encode_images,
        encode_texts=encode_texts,
        logit_scale=logit_scale,
        device=precision.device,
    )


def is_without_words(tokenizer: Any) -> bool:
    """Whether a vocabulary is special tokens alone, as transformers makes it for a folder without tokenizer files."""
    return set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens)


def _load_model(source: str, precision: InferencePrecision) -> Any:
    from transformers import AutoModel

    options = {"dtype": precision.dtype, "output_loading_info": True}
    model, loading = _from_pretrained(AutoModel, source, "model", **options)
    if not all(hasattr(model, name) for name in ("get_image_features", "get_text_features")):
        raise EncoderFileError(f"{source} is a {type(model).__name__}, which does not embed both images and texts")
    # The library would initialise missing tensors randomly.
    if missing := sorted(loading["missing_keys"]):
        raise EncoderFileError(f"{source} does not fit {type(model).__name__}: missing {', '.join(missing)}")
    return model.to(precision.device).eval()


def _load_part(kind: str, source: str) -> Any:
    import transformers

    what = "image processor" if kind == "AutoImageProcessor" else "tokenizer"
    return _from_pretrained(getattr(transformers, kind), source, what)


def _from_pretrained(kind: Any, source: str, what: str, **options: Any) -> Any:
    path = Path(source).expanduser()
    try:
        return kind.from_pretrained(path if path.exists() else source, trust_remote_code=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # OSError, ValueError, KeyError, SafetensorError, UnpicklingError, tokenizers' Exception
        reason = short_reason(error)
        if path.is_dir():
            raise EncoderFileError(f"{source} holds no {what} that transformers can read ({reason})") from error
        raise EncoderFileError(
            f"{source} is no folder, and transformers can load no {what} of this name from the Hugging Face Hub "
            f"({reason}); give {TRANSFORMERS}:FOLDER or {TRANSFORMERS}:ORG/NAME"
        ) from error


def _pixel_values(image: Image.Image, processor: Any) -> Tensor:
    pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
    return pixels


def _check_transform(source: str, transform: functools.partial[Tensor]) -> None:
    shape = tuple(transform(Image.new("RGB", (64, 48))).shape)
    if len(shape) != 3 or shape[0] != 3:
        raise EncoderFileError(
            f"the image processor of {source} gives tensors of shape {shape} instead of (3, H, W); models with images "
            "of variable size (NaFlex) and videos are not supported"
        )


def _logit_scale(source: str, model: nn.Module) -> float:
    if isinstance(scale := getattr(model, "logit_scale", None), Tensor):
        if (largest := getattr(model, "max_log_logit_scale", None)) is not None:  # AIMv2
            scale = scale.clamp(0.0, largest)
        return float(scale.detach().float().exp())
    if isinstance(temperature := getattr(model, "temperature", None), Tensor):  # ALIGN
        return 1 / float(temperature.detach())
    raise EncoderFileError(f"{source} is a {type(model).__name__}, which has neither logit_scale nor temperature")


def _text_padding(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Arguments of the tokenizer: SigLIP was trained with padding to the whole length, which its pooling reads."""
    text_config = getattr(model.config, "text_config", model.config)
    limits = [tokenizer.model_max_length]  # about 1e30 if the tokenizer's configuration has none
    if isinstance(positions := getattr(text_config, "max_position_embeddings", None), int):
        limits.append(positions - _first_position(model))
    whole = "siglip" in model.config.model_type
    return {"padding": "max_length" if whole else True, "max_length": min(limits)}


def _first_position(model: nn.Module) -> int:
    """Position of the first token: in models after RoBERTa, positions up to the padding's are unused."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def _features(output: Any, source: str) -> Tensor:
    """(B, E) of a result of `get_*_features`: a tensor in some versions and models, an output object in others."""
    features = output if isinstance(output, Tensor) else output.pooler_output
    if features.ndim != 2:
        raise EncoderFileError(f"{source} gives features of shape {tuple(features.shape)} instead of one per item")
    return features
