"""Memory and time of an evaluation on one rank and on two.

`make benchmark-evaluation` writes pictures of 224 px into tar shards of CLIP_benchmark's layout, and prints

- memory: the peak of each rank's memory with its loader process above that of the loaded model (what no file backs,
  from Linux), for a classification set and for a retrieval set with five captions per picture;
- time: of the same sets on one rank and on two, one thread and no loader process each, so that two ranks use twice
  the processor; and whether every outcome of two ranks is that of one.
"""

import argparse
import io
import json
import os
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from data_modules.benchmarks.config import (
    ClassificationSetConfig,
    EvaluationConfig,
    Layout,
    RetrievalSetConfig,
    TableConfig,
)
from data_modules.benchmarks.evaluation_sets import build_evaluation_sets
from data_modules.benchmarks.image_stream import EvaluationTransform
from kelip_lightning.evaluation.embed import image_encode_function, text_encode_function
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.evaluation.suite import Evaluation, Streaming, evaluate_sets
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.text_encoder import build_text_encoder
from tests.distributed.launch import launch

IMAGE_SIZE, EMBED_DIM, NUM_CLASSES, CAPTIONS = 224, 512, 100, 5
DISTINCT = 200
"""Different pictures; every picture of a set is one of them."""
TOKENS = 24


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=50_000, help="of the classification set")
    parser.add_argument("--queries", type=int, default=5_000, help="pictures of the retrieval set")
    parser.add_argument("--timed", type=int, default=1_500, help="pictures of the timed classification set")
    parser.add_argument("--width", type=int, default=64, help="width of the encoders of the memory measurement")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure_all(Path(name), arguments.pictures, arguments.queries, arguments.timed, arguments.width)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        print(f"{key:<60} {value if isinstance(value, bool) else f'{value:,.2f}'}")


def measure_all(folder: Path, pictures: int, queries: int, timed: int, width: int) -> dict[str, Any]:
    """The printed numbers: MiB, seconds, ratios."""
    for name, count in (("small", 64), ("classes", pictures), ("captions", queries), ("timed", timed)):
        write_folder(folder / name, count, with_captions=name == "captions")
    found: dict[str, Any] = {}
    for name in ("classes", "captions"):
        count = pictures if name == "classes" else queries
        what = f"{count:,} pictures" + (f", {count * CAPTIONS:,} captions" if name == "captions" else "")
        for world in (1, 2):
            outcome = run(folder, name, world, width, depth=1, num_workers=1)
            found[f"MiB above the model, {what}, {world} rank(s)"] = max(one["memory"] for one in outcome)
    alone, both = (run(folder, "timed", world, width=256, depth=6, num_workers=0) for world in (1, 2))
    found[f"seconds, {timed:,} pictures, 1 rank"] = alone[0]["seconds"]
    found[f"seconds, {timed:,} pictures, 2 ranks"] = max(one["seconds"] for one in both)
    found["ratio"] = max(one["seconds"] for one in both) / alone[0]["seconds"]
    found["outcomes of two ranks equal those of one, item by item"] = all(
        one["outcomes"] == alone[0]["outcomes"] for one in both
    )
    return found


def write_folder(folder: Path, count: int, *, with_captions: bool) -> None:
    """A test split of CLIP_benchmark's layout in one tar."""
    (folder / "test").mkdir(parents=True)
    generator = np.random.default_rng(0)
    pictures = []
    for _ in range(min(count, DISTINCT)):
        buffer = io.BytesIO()
        small = generator.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        Image.fromarray(small).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        pictures.append(buffer.getvalue())
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number in range(count):
            captions = "\n".join(f"caption {place} of picture {number}" for place in range(CAPTIONS))
            text = captions if with_captions else str(number % NUM_CLASSES)
            for ending, content in (("jpg", pictures[number % DISTINCT]), ("txt" if with_captions else "cls", text)):
                data = content if isinstance(content, bytes) else content.encode()
                member = tarfile.TarInfo(f"{number:07d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (folder / "test" / "nshards.txt").write_text("1", encoding="utf-8")
    if with_captions:
        (folder / "dataset_type.txt").write_text("retrieval", encoding="utf-8")
    names = "\n".join(f"class {number}" for number in range(NUM_CLASSES))
    (folder / "classnames.txt").write_text(names, encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}.", encoding="utf-8")


def run(folder: Path, name: str, world: int, width: int, depth: int, num_workers: int) -> list[dict[str, Any]]:
    """What each rank measured."""
    launch(_work, world, folder, name, width, depth, num_workers)
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(world)]


def _work(rank: int, world: int, folder: Path, name: str, width: int, depth: int, num_workers: int) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", timeout=timedelta(minutes=10))
    encoders, streaming = make_encoders(width, depth), Streaming(num_workers=num_workers)
    # The first evaluation loads tens of MiB of library code, whatever its size.
    evaluate_sets(build_evaluation_sets(config_of(folder / "small")), encoders, streaming)
    before, start = private_memory(), time.perf_counter()
    with peak_memory() as peak:
        evaluation = evaluate_sets(build_evaluation_sets(config_of(folder / name)), encoders, streaming)
    found = {
        "seconds": time.perf_counter() - start,
        "memory": peak[0] - before,
        "outcomes": outcomes_of(evaluation),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def config_of(folder: Path) -> EvaluationConfig:
    """The set of a folder."""
    table = TableConfig(files=[str(folder)], layout=Layout.clip_benchmark)
    if folder.name == "captions":
        table.captions = {"en": "captions"}
        return EvaluationConfig(retrieval={folder.name: RetrievalSetConfig(table=table)})
    return EvaluationConfig(classification={folder.name: ClassificationSetConfig(table=table)})


def outcomes_of(evaluation: Evaluation) -> dict[str, int]:
    """Task -> a number that changes if any outcome does."""
    return {one.task: hash(tuple(one.outcomes.tolist())) for one in evaluation.items}


class Bytes:
    """A tokenizer of bytes."""

    def encode(self, texts: list[str]) -> torch.Tensor:
        """int64 (B, TOKENS)."""
        return torch.tensor([[*text.encode()[: TOKENS - 1].ljust(TOKENS - 1), 256] for text in texts])


def make_encoders(width: int, depth: int) -> Encoders:
    """A random model of this size for 224 px."""
    torch.manual_seed(0)
    image = ImageEncoder(
        ImageEncoderConfig(image_size=IMAGE_SIZE, patch_size=32, width=width, depth=depth, num_heads=4)
    )
    text = build_text_encoder(
        TextEncoderConfig(width=width, depth=1, num_heads=4),
        vocab_size=257,
        context_length=TOKENS,
        eot_id=256,
        pad_id=0,
    )
    model = DualEncoder(image, text, DualEncoderConfig(embed_dim=EMBED_DIM)).eval()
    return Encoders(
        name="random",
        preprocess=EvaluationTransform(IMAGE_SIZE),
        encode_images=torch.no_grad()(image_encode_function(model)),
        encode_texts=torch.no_grad()(text_encode_function(model, Bytes())),
        logit_scale=100.0,
        device=torch.device("cpu"),
    )


def private_memory() -> float:
    """MiB of this process and its children that no file backs, pages that they share counted once (Linux: Pss_Anon)."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text(encoding="utf-8").split()
    total = 0.0
    for process in (own, *children):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:  # it has ended
            continue
        total += next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss_Anon")), 0.0)
    return total


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The peak of `private_memory`, sampled ten times a second."""
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], private_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
