"""Memory and time of an evaluation on one rank and on two.

Pictures of 224 px are written into tar shards of CLIP_benchmark's layout.

- Memory: the peak of each rank's memory with its loader process above that of the loaded model (what no file backs,
  from Linux), for a classification set and for a retrieval set with five captions per picture.
- Time: of a classification set on one rank and on two, one thread and no loader process each, so that two ranks use
  twice the processor; and whether every outcome of two ranks is that of one.
"""

import io
import os
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

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
from data_modules.config_roles import at_least, check_ranges
from kelip_lightning.benchmarks.processes import Progress, in_ranks
from kelip_lightning.benchmarks.writing import write_benchmark
from kelip_lightning.drawing.charts import ChartRow
from kelip_lightning.errors import BenchmarkError
from kelip_lightning.evaluation.embed import image_encode_function, text_encode_function
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.evaluation.suite import Evaluation, Streaming, evaluate_sets
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.text_encoder import build_text_encoder

IMAGE_SIZE, EMBED_DIM, NUM_CLASSES, CAPTIONS = 224, 512, 100, 5
DISTINCT = 200
"""Different pictures; every picture of a set is one of them."""
NUM_SMALL = 64
"""Pictures of the set that is evaluated before the measurement."""
TOKENS = 24
WORLDS = (1, 2)
NO_LINUX = "the memory of processes is read from Linux's /proc, which this system does not have; use Linux"


@dataclass(kw_only=True, slots=True)
class EvaluationSetting:
    """Sizes of the sets and of the models."""

    pictures: int = field(default=50_000, metadata=at_least(NUM_CLASSES, "one of each class"))
    """Of the classification set whose memory is measured."""
    queries: int = field(default=5000, metadata=at_least(1))
    """Pictures of the retrieval set, with five captions each, whose memory is measured."""
    timed: int = field(default=1500, metadata=at_least(NUM_CLASSES, "one of each class"))
    """Pictures of the classification set whose time is measured."""
    width: int = field(default=64, metadata=at_least(4))
    """Of the encoders of the memory measurement, a multiple of 4."""
    timed_width: int = field(default=256, metadata=at_least(4))
    """Of the image encoder of the time measurement, a multiple of 4."""
    timed_depth: int = field(default=6, metadata=at_least(1))
    """Its blocks."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOutcome:
    """What one rank has measured."""

    seconds: float
    mebibytes: float
    """Peak above the model."""
    outcomes: dict[str, int]
    """Task -> a number that changes if any outcome does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCost:
    """What the evaluations take; keys are numbers of ranks."""

    classification_mebibytes: dict[int, float]
    """The largest peak of a rank."""
    retrieval_mebibytes: dict[int, float]
    seconds: dict[int, float]
    """Of the slowest rank."""
    same_outcomes: bool
    """Whether every rank of two has the outcomes of one, item by item."""


def run_evaluation_benchmark(setting: EvaluationSetting, progress: Progress) -> EvaluationCost:
    """Write the sets, measure all evaluations.

    Raises:
        BenchmarkError: There is no /proc, or a process died.
    """
    if sys.platform != "linux":
        raise BenchmarkError(NO_LINUX)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sizes = {"small": NUM_SMALL, "classes": setting.pictures, "captions": setting.queries, "timed": setting.timed}
        for name, count in sizes.items():
            write_folder(folder / name, count, with_captions=name == "captions")
        progress(f"written: {', '.join(f'{name} {count:,}' for name, count in sizes.items())} pictures")
        peaks: dict[str, dict[int, float]] = {}
        for name in ("classes", "captions"):
            peaks[name] = {
                world: max(one.mebibytes for one in evaluate_on(world, folder, name, setting.width, 1, num_workers=1))
                for world in WORLDS
            }
            progress(
                f"{name}: {', '.join(f'{peak:.0f} MiB on {world}' for world, peak in peaks[name].items())} rank(s)"
            )
        timed = {
            world: evaluate_on(world, folder, "timed", setting.timed_width, setting.timed_depth, num_workers=0)
            for world in WORLDS
        }
    return EvaluationCost(
        classification_mebibytes=peaks["classes"],
        retrieval_mebibytes=peaks["captions"],
        seconds={world: max(one.seconds for one in ranks) for world, ranks in timed.items()},
        same_outcomes=all(one.outcomes == timed[1][0].outcomes for one in timed[2]),
    )


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


def evaluate_on(world: int, folder: Path, name: str, width: int, depth: int, *, num_workers: int) -> list[RankOutcome]:
    """What each rank has measured on the set `folder / name`."""
    return in_ranks(world, measure_rank, folder, name, width, depth, num_workers)


def measure_rank(folder: Path, name: str, width: int, depth: int, num_workers: int) -> RankOutcome:
    """One rank's part, in a process of its own, whose environment gives rank and world."""
    if os.environ["WORLD_SIZE"] != "1":
        dist.init_process_group("gloo", timeout=timedelta(minutes=10))
    encoders, streaming = make_encoders(width, depth), Streaming(num_workers=num_workers)
    # The first evaluation loads tens of MiB of library code, whatever its size.
    evaluate_sets(build_evaluation_sets(config_of(folder / "small")), encoders, streaming)
    before, start = private_memory(), time.perf_counter()
    with peak_memory() as peak:
        evaluation = evaluate_sets(build_evaluation_sets(config_of(folder / name)), encoders, streaming)
    seconds = time.perf_counter() - start
    return RankOutcome(seconds=seconds, mebibytes=peak[0] - before, outcomes=outcomes_of(evaluation))


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


def make_encoders(width: int, depth: int, device: str = "cpu") -> Encoders:
    """A random model of this size for 224 px, the same on every device."""
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
    model = DualEncoder(image, text, DualEncoderConfig(embed_dim=EMBED_DIM)).eval().to(device)
    return Encoders(
        name="random",
        preprocess=EvaluationTransform(IMAGE_SIZE),
        encode_images=torch.no_grad()(image_encode_function(model)),
        encode_texts=torch.no_grad()(text_encode_function(model, Bytes())),
        logit_scale=100.0,
        device=torch.device(device),
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


def write_evaluation_report(setting: EvaluationSetting, cost: EvaluationCost, folder: Path) -> list[Path]:
    """Write evaluation.json and evaluation.png, the peaks; returns both."""
    rows = [
        ChartRow(label=f"{what}, {world} rank(s)", value=mebibytes, low=None, high=None)
        for what, peaks in described_peaks(setting, cost).items()
        for world, mebibytes in peaks.items()
    ]
    title = "Peak MiB of a rank and its loader process above the model"
    content = {"setting": asdict(setting), "cost": asdict(cost)}
    return write_benchmark(folder, "evaluation", content, rows, title)


def described_peaks(setting: EvaluationSetting, cost: EvaluationCost) -> dict[str, dict[int, float]]:
    """What was evaluated -> ranks -> MiB."""
    captions = f"{setting.queries * CAPTIONS:,} captions"
    return {
        f"{setting.pictures:,} pictures": cost.classification_mebibytes,
        f"{setting.queries:,} pictures, {captions}": cost.retrieval_mebibytes,
    }
