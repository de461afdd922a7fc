"""`kelip embed`: embeddings of images or texts into a file, batch by batch, continuing where an earlier run ended.

Shapes: N items, B items of a batch, E embedding width.
"""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data_modules.errors import DataError
from data_modules.faults import SampleFault, sample_errors
from data_modules.loader import build_fixed_loader
from data_modules.paths import resolve_path
from kelip_lightning.evaluation.embed import embed_texts, require_finite, unit_rows
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.embed_items import EmbedItems, EncodedImages
from kelip_lightning.inference.embedding_file import EmbeddingIdentity, EmbeddingWriter
from kelip_lightning.interchange.model_names import SHIPPED_MODELS
from kelip_lightning.models.model_folder import WEIGHTS
from kelip_lightning.runs.folder import RunFolder

PROBE_TEXT = "사과 한 개와 a red bicycle, 1234"
PART_ROWS, PART_SECONDS = 8192, 60.0
"""Rows and seconds after which a part is written; an interruption loses at most this."""
_WEIGHT_FILES = (WEIGHTS, "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")

Progress = Callable[[int, int, int], None]
"""Items done, items in all, broken ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSettings:
    """How items are read and written; embeddings do not depend on batches and workers."""

    batch_size: int = 64
    num_workers: int = field(default_factory=lambda: max(0, (os.cpu_count() or 1) - 1))
    """Loader processes that decode images."""
    dtype: str = "float32"
    """float32 or float16, of the file."""
    max_broken_share: float = 0.1
    """Most images, as a share of all, that may be unreadable."""
    part_rows: int = PART_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """What was done."""

    total: int
    """Items."""
    reused: int
    """Items that the file or its parts had already."""
    rows: int
    """Rows of the file."""
    broken: dict[str, str]
    """Key -> why the image cannot be read."""


def embed_to_file(
    items: EmbedItems,
    encoders: Encoders,
    output: Path,
    settings: EmbedSettings,
    progress: Progress | None = None,
) -> EmbedReport:
    """Embed what the file lacks. Images that cannot be read are left out, and tried again by the next call.

    Rows are L2-normalised, in the order of the items. An item is embedded again if its key is new or its content has
    changed; rows of items that are gone are removed.

    Args:
        items: Images or texts.
        encoders: The model.
        output: A .parquet file.
        settings: Batches, dtype, limit of broken images.
        progress: Called after every batch.

    Raises:
        OtherEmbeddingsError: The file is of another model or dtype.
        DataError: The file is damaged, or too many images are.
        NonFiniteEmbeddingsError: The model gives NaN or infinity.
    """
    identity = identity_of(encoders, items.kind, settings.dtype)
    writer = EmbeddingWriter(output, identity, items)
    missing = writer.missing()
    reused = len(items) - len(missing)
    broken: dict[str, str] = {}
    pending = _Pending(writer, settings.part_rows)
    try:
        for batch in _batches(items, missing, encoders, settings):
            broken |= batch.broken
            _check_share(items, broken, settings.max_broken_share)
            pending.add(batch.positions, batch.rows)
            if progress is not None:
                progress(reused + pending.count + len(broken), len(items), len(broken))
    finally:
        pending.flush()
    return EmbedReport(total=len(items), reused=reused, rows=writer.finish(), broken=broken)


def identity_of(encoders: Encoders, kind: str, dtype: str) -> EmbeddingIdentity:
    """The identity of a model's embeddings; embeds the probe."""
    probe = _embed_images(encoders, probe_image(encoders)) if kind == "images" else _embed_probe_text(encoders)
    require_finite(probe, "probe")
    return EmbeddingIdentity(
        model=encoders.name,
        weights_sha256=weights_digest(encoders.name),
        kind=kind,
        embed_dim=probe.shape[1],
        dtype=dtype,
        logit_scale=encoders.logit_scale,
        probe=[round(float(value), 7) for value in probe[0]],
    )


def probe_image(encoders: Encoders) -> Tensor:
    """(1, 3, H, W): colour gradients, as the model preprocesses them."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    blue = (red.astype(int) * 3 + green.astype(int) * 5) % 256
    stream = io.BytesIO()
    Image.fromarray(np.stack([red, green, blue.astype(np.uint8)], axis=-1)).save(stream, "PNG")
    return encoders.preprocess(stream.getvalue()).unsqueeze(0)


def weights_digest(model: str) -> str | None:
    """SHA-256 of the file of weights of a model in a local folder; `None`: there is no such file."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = resolve_path(SHIPPED_MODELS.get(model, model))
    folders = (RunFolder(folder).dual_encoder, folder)
    file = next((one / name for one in folders for name in _WEIGHT_FILES if (one / name).is_file()), None)
    if file is None:
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Batch(NamedTuple):
    positions: list[int]
    rows: Tensor
    broken: dict[str, str]


def _batches(
    items: EmbedItems, positions: Sequence[int], encoders: Encoders, settings: EmbedSettings
) -> Iterator[_Batch]:
    if items.images is None:
        for start in range(0, len(positions), settings.part_rows):
            chosen = list(positions[start : start + settings.part_rows])
            rows = embed_texts(encoders.encode_texts, [items.content[one] for one in chosen], settings.batch_size)
            yield _Batch(chosen, rows, {})
        return
    groups = [
        list(positions[start : start + settings.batch_size]) for start in range(0, len(positions), settings.batch_size)
    ]
    dataset = _Images(items.images, encoders.preprocess, items.keys)
    # Starting a process takes longer than decoding a few small batches.
    workers = min(settings.num_workers, len(groups) // 2)
    loader = build_fixed_loader(dataset, groups, _collate, workers, pin_memory=encoders.device.type == "cuda")
    for pixels, found, broken in loader:
        rows = _embed_images(encoders, pixels) if found else torch.empty(0, 0)
        if found:
            require_finite(rows, "image")
        yield _Batch(found, rows, broken)


def _embed_images(encoders: Encoders, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return unit_rows(encoders.encode_images(pixels))


def _embed_probe_text(encoders: Encoders) -> Tensor:
    return embed_texts(encoders.encode_texts, [PROBE_TEXT])


class _Broken(NamedTuple):
    key: str
    reason: str


class _Images(Dataset["tuple[int, Tensor] | _Broken"]):
    """Preprocessed images; one that cannot be read is `_Broken`, as an exception would end the worker's batch."""

    def __init__(self, images: EncodedImages, preprocess: Callable[[bytes], Tensor], keys: Sequence[str]) -> None:
        self._images, self._preprocess, self._keys = images, preprocess, keys

    def __getitem__(self, position: int) -> "tuple[int, Tensor] | _Broken":
        try:
            with sample_errors(self._keys[position]):
                return position, self._preprocess(self._images.read(position))
        except SampleFault as fault:
            return _Broken(self._keys[position], fault.detail or fault.kind)


def _collate(samples: "list[tuple[int, Tensor] | _Broken]") -> tuple[Tensor, list[int], dict[str, str]]:
    whole = [one for one in samples if not isinstance(one, _Broken)]
    broken = {one.key: one.reason for one in samples if isinstance(one, _Broken)}
    pixels = torch.stack([pixels for _, pixels in whole]) if whole else torch.empty(0)
    return pixels, [position for position, _ in whole], broken


def _check_share(items: EmbedItems, broken: dict[str, str], most: float) -> None:
    if len(broken) > most * len(items):
        key, reason = next(iter(broken.items()))
        raise DataError(
            f"{len(broken)} of {len(items)} images of {items.name} cannot be read, more than --max-broken {most:g}, "
            f"the first is {key} ({reason}); replace or remove them, or raise the limit"
        )


class _Pending:
    """Rows that are not in a part yet."""

    def __init__(self, writer: EmbeddingWriter, part_rows: int) -> None:
        self._writer, self._part_rows = writer, part_rows
        self._positions: list[int] = []
        self._rows: list[NDArray[np.float32]] = []
        self._since = time.monotonic()
        self.count = 0
        """Rows of all parts and of those that are pending."""

    def add(self, positions: Sequence[int], rows: Tensor) -> None:
        if positions:
            self._positions += positions
            self._rows.append(rows.numpy())
            self.count += len(positions)
        if len(self._positions) >= self._part_rows or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._positions:
            self._writer.append(self._positions, np.concatenate(self._rows))
        self._positions, self._rows, self._since = [], [], time.monotonic()
