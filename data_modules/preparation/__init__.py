"""Tools that run before training: pack sources into tar shards, inspect pair sets, survey a lab's data."""

from data_modules.preparation.inspection import SHEET_SIDE, SourceReport, inspect_sources, language_shares
from data_modules.preparation.packing import (
    IMAGE_FORMATS,
    PLANES_ENDING,
    PackedShard,
    PackSettings,
    num_shards,
    pack_source,
    planes_bytes,
    sources_to_pack,
)

__all__ = [
    "IMAGE_FORMATS",
    "PLANES_ENDING",
    "SHEET_SIDE",
    "PackSettings",
    "PackedShard",
    "SourceReport",
    "inspect_sources",
    "language_shares",
    "num_shards",
    "pack_source",
    "planes_bytes",
    "sources_to_pack",
]
