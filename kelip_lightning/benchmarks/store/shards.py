"""Shards of generated JPEGs in a store."""

import io
import tarfile
from collections.abc import Sequence

import numpy as np
from PIL import Image

from kelip_lightning.benchmarks.store.server import BUCKET, Store
from kelip_lightning.errors import BenchmarkError

SAMPLES_PER_SHARD = 500
_NUM_PICTURES = 40
"""Different pictures; keys and captions differ in all samples."""
_SIDE = 320


def shard_name(number: int) -> str:
    """Key of a shard in the bucket."""
    return f"shards/{number:05d}.tar"


def put_shards(store: Store, number: int, image_bytes: int) -> None:
    """Write the shards.

    Args:
        store: The server.
        number: Of shards.
        image_bytes: Size of a JPEG, about.

    Raises:
        BenchmarkError: boto3 is not installed.
    """
    try:
        import boto3
    except ImportError as error:
        raise BenchmarkError("boto3 is not installed; install it with pip install 'kelip-lightning[store]'") from error
    client = boto3.client(
        "s3", endpoint_url=store.url, aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1"
    )
    client.create_bucket(Bucket=BUCKET)
    pictures = _pictures(image_bytes)
    for shard in range(number):
        # Readable without a signature, so that WebDataset's reader can fetch it by its address.
        client.put_object(Bucket=BUCKET, Key=shard_name(shard), Body=_shard(shard, pictures), ACL="public-read")


def _shard(number: int, pictures: Sequence[bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for place in range(SAMPLES_PER_SHARD):
            key = f"{number:05d}{place:04d}"
            members = {"jpg": pictures[(7 * number + place) % len(pictures)], "txt": f"그림 {key}".encode()}
            for ending, member in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(member)
                archive.addfile(info, io.BytesIO(member))
    return content.getvalue()


def _pictures(image_bytes: int) -> list[bytes]:
    """JPEGs of about this size: smooth colours with noise."""
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).resize((_SIDE, _SIDE))
    noise = generator.normal(0, 14, (_NUM_PICTURES, 1, _SIDE, _SIDE, 3))
    found = []
    for one in noise:
        pixels = np.clip(np.asarray(smooth) + one[0], 0, 255).astype(np.uint8)
        qualities = range(5, 96, 5)
        encoded = (_jpeg(pixels, quality) for quality in reversed(qualities))
        found.append(next((one for one in encoded if len(one) <= image_bytes), _jpeg(pixels, qualities[0])))
    return found


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
