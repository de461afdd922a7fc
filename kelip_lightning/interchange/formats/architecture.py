"""The architecture that a foreign configuration describes, and its model."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.text_encoder import TextEncoder

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Sizes of a dual encoder and its tokenizer."""

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
    """Bias of a sigmoid loss; `None` without one."""


def build_architecture(architecture: Architecture, logit_scale: float) -> DualEncoder:
    """A dual encoder to load weights into; preserves torch's random state.

    `logit_scale` is the stored logarithm, which other libraries do not bound: the bound is raised to it if necessary.
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
    """The mapping in a JSON file; EncoderFileError if it is missing or damaged."""
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
    """A section of a foreign configuration, read key by key, so that no key is ignored silently."""

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        self._values = dict(values)
        self._origin = origin

    def take(self, key: str, kind: type[Value], default: Value | None = None) -> Value:
        """Read a key; EncoderFileError if it is missing without a default, or of another type."""
        value = self._values.pop(key, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise EncoderFileError(f"{self._origin}: {key} = {value!r} must be of type {kind.__name__}")
        return value

    def take_optional(self, key: str, kind: type[Value]) -> Value | None:
        """Read a key that may be missing or null; EncoderFileError if it is of another type."""
        if self._values.get(key) is None:
            self._values.pop(key, None)
            return None
        return self.take(key, kind)

    def choose(self, key: str, choices: Mapping[str, Value], default: str | None = None) -> Value:
        """Read a key and look its value up; EncoderFileError if it is none of the choices."""
        name = self.take(key, str, default)
        if name not in choices:
            raise EncoderFileError(
                f"{self._origin}: {key} = {name!r} cannot be read into this suite's model, only {' and '.join(choices)}"
            )
        return choices[name]

    def expect(self, **allowed: Any) -> None:
        """Read optional keys; EncoderFileError unless they have these values, the only ones our model supports."""
        for key, value in allowed.items():
            if self._values.pop(key, value) != value:
                raise EncoderFileError(
                    f"{self._origin}: only {key} = {json.dumps(value)} can be read into this suite's model"
                )

    def finish(self, *ignored: str) -> None:
        """Raise EncoderFileError if keys are unread, except those ignored, which do not affect the computation."""
        if left := sorted(set(self._values) - set(ignored)):
            raise EncoderFileError(f"{self._origin}: {', '.join(left)} cannot be read into this suite's model")
