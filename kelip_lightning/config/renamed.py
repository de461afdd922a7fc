"""Keys and values of earlier revisions: section class -> old key -> current name, or key -> old value -> current one.

A file that uses an old key is refused with the new name in the message. The stored configuration of a run is read with
its keys and values translated, so that runs of earlier revisions are still evaluated, exported and resumed.
"""

from collections.abc import Mapping

RENAMED: Mapping[str, Mapping[str, str]] = {
    "ContrastiveLossConfig": {"tile_size": "max_logits_per_pair"},
    "CultureAnalysis": {"top": "top_k"},
    "ImageDataConfig": {"faults": "corrupt_samples"},
    "ImageTextDataConfig": {"faults": "corrupt_samples"},
    "ScaleConfig": {"figures": "metrics"},
    "StrongConfig": {"jitter": "color_jitter", "grey": "grayscale", "blur": "gaussian_blur"},
}
"""Renamed after revision e16296c."""

MOVED: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "ClassificationSetConfig": {
        "classes_file": {"package:assets/emoji_subgroups.yaml": "package:assets/classes/emoji_subgroups.yaml"}
    },
}
"""Files of `data_modules` that moved after revision e16296c: section class -> key -> old path -> current path."""


def current_name(kind: type, key: str) -> str | None:
    """The current name of an old key of a section class; `None`: the key was never renamed."""
    return RENAMED.get(kind.__name__, {}).get(key)


def current_value(kind: type, key: str, value: object) -> object:
    """The value of a section's key, with the path of a file that moved replaced by its current one."""
    moved = MOVED.get(kind.__name__, {}).get(key, {})
    return moved.get(value, value) if isinstance(value, str) else value
