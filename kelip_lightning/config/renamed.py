"""Keys of earlier revisions: section class -> old key -> current name.

A file that uses an old key is refused with the new name in the message. The stored configuration of a run is read with
its keys translated, so that runs of earlier revisions are still evaluated, exported and resumed.
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


def current_name(kind: type, key: str) -> str | None:
    """The current name of an old key of a section class; `None`: the key was never renamed."""
    return RENAMED.get(kind.__name__, {}).get(key)
