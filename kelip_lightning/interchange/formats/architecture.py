"""What a foreign configuration says of a model, in our words, and the model that it describes."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.dual_encoder import DualEncoder, DualEncoderConfig
from kelip_lightning.models.image_encoder import ImageEncoder, ImageEncoderConfig
from kelip_lightning.models.text_encoder import TextEncoder, TextEncoderConfig

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A dual encoder, its tokenizer's numbers included."""

    image: ImageEncoderConfig
    text: TextEncoderConfig
    embed_dim: int
    vocab_size: int
    """Rows of the token embedding."""
    context_length: int
    """Rows of the text encoder's position embedding."""
    eot_id: int
    """Id of the end token."""
    pad_id: int
    """Id of the padding."""
    logit_bias: float | None = None
    """Value of the bias that a sigmoid loss learns; none: the model has no bias."""


def build_architecture(architecture: Architecture, logit_scale: float) -> DualEncoder:
    """A dual encoder to load weights into; leaves torch's random stream alone.

    Args:
        architecture: Its sizes.
        logit_scale: The stored logarithm: other libraries do not bound it, so the bound gives way where it is above.
    """
    joint = DualEncoderConfig(
        embed_dim=architecture.embed_dim,
        max_logit_scale=max(DualEncoderConfig().max_logit_scale, math.exp(logit_scale)),
        initial_logit_bias=architecture.logit_bias,
    )
    with torch.random.fork_rng(devices=[]):
        text_encoder = TextEncoder(
            architecture.text,
            vocab_size=architecture.vocab_size,
            context_length=architecture.context_length,
            eot_id=architecture.eot_id,
            pad_id=architecture.pad_id,
        )
        return DualEncoder(ImageEncoder(architecture.image), text_encoder, joint)


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        EncoderFileError: The file is missing, or holds no JSON mapping.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise EncoderFileError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise EncoderFileError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise EncoderFileError(f"{file} must hold a mapping")
    return content


class ForeignConfig:
    """A section of a foreign configuration that is read key by key; what is left over is no default of ours."""

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        self._values = dict(values)
        self._origin = origin

    def take(self, key: str, kind: type[Value], default: Value | None = None) -> Value:
        """The value of a key, which counts as read.

        Raises:
            EncoderFileError: It is missing and has no default, or is of another type.
        """
        value = self._values.pop(key, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise EncoderFileError(f"{self._origin}: {key} = {value!r} must be of type {kind.__name__}")
        return value

    def take_optional(self, key: str, kind: type[Value]) -> Value | None:
        """The same of a key that may be missing or null: none then.

        Raises:
            EncoderFileError: It is of another type.
        """
        if self._values.get(key) is None:
            self._values.pop(key, None)
            return None
        return self.take(key, kind)

    def choose(self, key: str, choices: Mapping[str, Value], default: str | None = None) -> Value:
        """What stands for the name under a key, which counts as read.

        Raises:
            EncoderFileError: It is none of the choices.
        """
        name = self.take(key, str, default)
        if name not in choices:
            raise EncoderFileError(
                f"{self._origin}: {key} = {name!r} cannot be read into this suite's model, only {' and '.join(choices)}"
            )
        return choices[name]

    def expect(self, **allowed: Any) -> None:
        """The keys, if there, have these values, which are the only ones that our model can take.

        Raises:
            EncoderFileError: One has another.
        """
        for key, value in allowed.items():
            if self._values.pop(key, value) != value:
                raise EncoderFileError(
                    f"{self._origin}: only {key} = {json.dumps(value)} can be read into this suite's model"
                )

    def finish(self, *ignored: str) -> None:
        """Every key has been read, or is one that says nothing about the computation.

        Raises:
            EncoderFileError: Keys are left over.
        """
        if left := sorted(set(self._values) - set(ignored)):
            raise EncoderFileError(f"{self._origin}: {', '.join(left)} cannot be read into this suite's model")
