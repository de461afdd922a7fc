"""Keys of earlier revisions: section class -> old key -> its name today.

A file that uses an old key is refused with the new name in the message. The stored configuration of a run is read with
its keys translated, so that runs of earlier revisions are still evaluated, exported and resumed.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from kelip_lightning.config.schema import section_of_mapping, without_none

RENAMED: Mapping[str, Mapping[str, str]] = {
    "ContrastiveLossConfig": {"tile_size": "max_logits_per_pair"},
    "CultureAnalysis": {"top": "top_k"},
    "ImageDataConfig": {"faults": "corrupt_samples"},
    "ImageTextDataConfig": {"faults": "corrupt_samples"},
    "ScaleConfig": {"figures": "metrics"},
    "StrongConfig": {"jitter": "color_jitter", "grey": "grayscale", "blur": "gaussian_blur"},
}
"""Renamed after revision e16296c."""


def current_name(kind: type, key: str) -> str | None:
    """What an old key of a section class is called today; `None`: it was never renamed."""
    return RENAMED.get(kind.__name__, {}).get(key)


def translate(kind: type, values: Any) -> Any:
    """A plain tree with the old keys of a section class, and of all sections below it, under today's names."""
    if not isinstance(values, Mapping):
        return values
    hints, translated = get_type_hints(kind), {}
    for key, value in values.items():
        name = current_name(kind, str(key)) or key
        inner, _ = without_none(hints.get(str(name)))
        below = section_of_mapping(inner)
        if isinstance(inner, type) and is_dataclass(inner):
            value = translate(inner, value)
        elif below is not None and isinstance(value, Mapping):
            value = {entry: translate(below, one) for entry, one in value.items()}
        translated[name] = value
    return translated
