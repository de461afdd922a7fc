"""Evaluation on several ranks: outcomes are those of one process, no rank is idle, and none waits for a failed one."""

import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch import distributed as dist

from data_modules.benchmarks.config import (
    CaptionSetConfig,
    ClassificationSetConfig,
    EvaluationConfig,
    RetrievalSetConfig,
    TableConfig,
    TieRule,
)
from data_modules.benchmarks.evaluation_sets import EvaluationSets, build_evaluation_sets
from data_modules.benchmarks.image_stream import EvaluationTransform
from kelip_lightning.distributed.sharing import rows_in_blocks
from kelip_lightning.evaluation import retrieval
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.evaluation.gathered_metric import GatheredMetric
from kelip_lightning.evaluation.ranks import TIE_RULES
from kelip_lightning.evaluation.retrieval import CaptionRetrieval, RetrievalRecall
from kelip_lightning.evaluation.suite import Streaming, evaluate_sets
from kelip_lightning.evaluation.zero_shot import ZeroShotAccuracy
from tests.distributed.launch import launch
from tests.embeddings import tied_rows

pytestmark = pytest.mark.distributed

NUM, NUM_TEXTS, WIDTH = 41, 95, 6
IMAGES, TEXTS = tied_rows(NUM, WIDTH, 0), tied_rows(NUM_TEXTS, WIDTH, 1)
PAIRS = torch.stack([torch.arange(NUM_TEXTS) % NUM, torch.arange(NUM_TEXTS)], dim=1)
NUM_ROWS, NUM_CLASSES = 70, 7


def _metrics() -> dict[str, GatheredMetric]:
    made: dict[str, GatheredMetric] = {}
    for rule in TIE_RULES:
        made[f"retrieval {rule}"] = RetrievalRecall(PAIRS, tie_rule=rule, shown_ids=torch.tensor([40, 3]))
        made[f"captions {rule}"] = CaptionRetrieval(tie_rule=rule)
        made[f"zero-shot {rule}"] = ZeroShotAccuracy(tied_rows(NUM_CLASSES, WIDTH, 2), tie_rule=rule)
    return made


def _add(metric: GatheredMetric, ids: Tensor, text_ids: Tensor) -> None:
    match metric:
        case RetrievalRecall():
            metric.update(IMAGES[ids], ids, TEXTS[text_ids], text_ids)
        case CaptionRetrieval():
            own = text_ids[text_ids < NUM]
            metric.update(IMAGES[ids], ids, TEXTS[own], own)
        case ZeroShotAccuracy():
            metric.update(IMAGES[ids], ids % NUM_CLASSES, ids)


def _results(metric: GatheredMetric) -> dict[str, Any]:
    found: dict[str, Any] = {name: value.item() for name, value in metric.compute().items()}
    outcomes: Any = metric.outcomes if isinstance(metric.outcomes, dict) else {"": metric.outcomes}
    for task, one in outcomes.items():
        found |= {f"{task} {name}": getattr(one, name).tolist() for name in ("ids", "pessimistic_ranks", "topk_hits")}
    for name in ("top_texts", "top_matches", "matched_minus_random", "item_labels"):
        if (value := getattr(metric, name, None)) is not None:
            found[name] = [part.tolist() for part in value]
    return found


def _outcomes(rank: int, world: int) -> dict[str, Any]:
    """Results of the metrics: the last of several ranks adds nothing, and the first two add two items both."""
    retrieval.block_size = lambda _: 8 if world > 1 else 1024  # type: ignore[assignment]
    adding, found = max(world - 1, 1), {}
    for name, metric in _metrics().items():
        if rank < adding:
            ids, text_ids = torch.arange(NUM)[rank::adding], torch.arange(NUM_TEXTS)[rank::adding]
            half = torch.cat([ids[: len(ids) // 2], torch.tensor([7, 8])])
            _add(metric, half, text_ids[: len(text_ids) // 2])
            if world > 1:
                metric.sync()
                metric.unsync()  # the rows added afterwards join the own ones
            _add(metric, ids.flip(0), text_ids)
        else:
            metric.sync()
            metric.unsync()
        found[name] = _results(metric)
        assert _results(metric) == found[name]
        metric.reset()
    return found


def _raised(work: Callable[[], Any]) -> tuple[str, str]:
    try:
        work()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def _blocks(rank: int) -> dict[str, Any]:
    """What `rows_in_blocks` gives, and what it raises when one rank fails."""

    def squares(block: slice) -> Tensor:
        return torch.arange(block.start, block.stop)[:, None] ** 2

    def failing(block: slice) -> Tensor:
        if rank == 1:
            raise ValueError("the second rank is out of luck")
        return squares(block)

    def lacking() -> None:
        metric = RetrievalRecall(PAIRS)
        if rank == 0:
            metric.update(IMAGES, torch.arange(NUM), TEXTS[:90], torch.arange(90))
        message = _raised(metric.compute)
        if rank == 0:
            assert isinstance(metric.image_rows, list)  # its own rows again
            metric.update(texts=TEXTS[90:], text_ids=torch.arange(90, NUM_TEXTS))
        metric.compute()
        metric.reset()
        raise RuntimeError(*message)

    return {
        "rows": [rows_in_blocks(number, 3, squares)[:, 0].tolist() for number in (1, 2, 6, 20)],
        "failing": _raised(lambda: rows_in_blocks(20, 3, failing)),
        "lacking": _raised(lacking),
    }


def _png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _write_tables(folder: Path) -> None:
    """70 rows; the first ten of them; and 70 of which one in the second batch is no image."""
    rows = [
        {"key": f"image-{n}", "image": {"bytes": _png(n), "path": None}, "ko": f"그림 {n}", "en": [f"picture {n}", "a"]}
        | {"label": f"c{n % NUM_CLASSES}"}
        for n in range(NUM_ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "all.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:10]), folder / "few.parquet")
    rows[20]["image"] = {"bytes": b"no image", "path": None}
    pq.write_table(pa.Table.from_pylist(rows), folder / "broken.parquet")
    classes = {f"c{n}": {"ko": f"종류 {n}", "en": [f"class {n}", f"kind {n}"]} for n in range(NUM_CLASSES)}
    tree = {"templates": {"ko": "{}", "en": ["a {}", "the {}"]}, "classes": classes}
    (folder / "classes.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")


def _sets(folder: Path, name: str) -> EvaluationSets:
    table = TableConfig(files=[str(folder / f"{name}.parquet")], captions={"ko": "ko", "en": "en"})
    return build_evaluation_sets(
        EvaluationConfig(
            retrieval={
                "plain": RetrievalSetConfig(table=table),
                "by_topk": RetrievalSetConfig(table=table, tie_rule=TieRule.topk),
            },
            captions={"captions": CaptionSetConfig(table=table)},
            classification={
                "groups": ClassificationSetConfig(
                    table=table, label="label", classes_file=str(folder / "classes.yaml"), tie_rule=TieRule.topk
                )
            },
        )
    )


def _encode_texts(texts: list[str]) -> Tensor:
    return torch.stack([tied_rows(1, WIDTH, crc32(text.encode()))[0] for text in texts])


def _suite(rank: int, folder: Path, name: str = "all", broken_on: int = -1) -> dict[str, Any]:
    """Results of all sets, and how many batches of images, texts and prompts this rank embedded."""
    batches = {"images": 0, "texts": 0, "prompts": 0}
    weight = torch.randn(3 * 8 * 8, WIDTH, generator=torch.Generator().manual_seed(0))

    def encode_images(images: Tensor) -> Tensor:
        batches["images"] += 1
        rows = (images.float().flatten(1) - 128) @ weight
        if rank == broken_on:
            rows[:2] = torch.nan
        return rows

    def encode_texts(texts: list[str]) -> Tensor:
        batches["prompts" if {"class", "kind", "종류"} & set(" ".join(texts).split()) else "texts"] += 1
        return _encode_texts(texts)

    encoders = Encoders(
        name="stub",
        preprocess=EvaluationTransform(8),
        encode_images=encode_images,
        encode_texts=encode_texts,
        logit_scale=10.0,
        device=torch.device("cpu"),
    )
    found = evaluate_sets(_sets(folder, name), encoders, Streaming(num_examples=4))
    items = [[one.task, one.outcomes.tolist(), one.groups.tolist(), one.texts] for one in found.items]
    examples = [
        [one.language, one.images, one.texts, one.probabilities, one.correct, one.true_texts] for one in found.examples
    ]
    return {
        "results": [found.metrics, items, examples, found.tie_differences],
        "batches": batches,
    }


def _work(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    found: dict[str, Any] = {"outcomes": _outcomes(rank, world), "blocks": _blocks(rank)}
    if world == 3:
        retrieval.block_size = lambda _: 8  # type: ignore[assignment]
        found |= {
            "all": _suite(rank, folder),
            "few": _suite(rank, folder, "few"),
            "not finite": _raised(lambda: _suite(rank, folder, broken_on=1)),
            "no image": _raised(lambda: _suite(rank, folder, "broken")),
        }
    (folder / f"{world}-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ranks")
    _write_tables(place)
    return place


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, folder: Path) -> list[dict[str, Any]]:
    return _launched(request.param, folder)


@pytest.fixture(scope="module")
def three(folder: Path) -> list[dict[str, Any]]:
    return _launched(3, folder)


def _launched(world: int, folder: Path) -> list[dict[str, Any]]:
    """What each rank found; the processes start once."""
    files = [folder / f"{world}-{rank}.json" for rank in range(world)]
    if not files[0].is_file():
        launch(_work, world, folder)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _as_json(found: Any) -> Any:
    return json.loads(json.dumps(found))


def test_outcomes__equal_those_of_one_process(ranks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "block_size", retrieval.block_size)
    expected = _as_json(_outcomes(0, 1))
    assert len(expected) == 6
    for found in ranks:
        for name, results in expected.items():
            assert found["outcomes"][name] == results, name


def test_rows_in_blocks__in_order_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["blocks"]["rows"] == [[one**2 for one in range(number)] for number in (1, 2, 6, 20)]


def test_error_of_one_rank__ends_all_with_its_message(ranks: list[dict[str, Any]]) -> None:
    failing = [found["blocks"]["failing"] for found in ranks]
    assert {message for _, message in failing} == {"the second rank is out of luck"}
    assert [kind for kind, _ in failing] == [
        "ValueError" if rank == 1 else "RuntimeError" for rank in range(len(ranks))
    ]


def test_error_in_compute__leaves_each_rank_its_rows(ranks: list[dict[str, Any]]) -> None:
    message = "('ValueError', 'positives names 5 text ids that were not added')"
    assert [found["blocks"]["lacking"] for found in ranks] == [["RuntimeError", message]] * len(ranks)


@pytest.mark.parametrize("name", ["all", "few"])
def test_suite__equals_one_process_bit_for_bit(three: list[dict[str, Any]], folder: Path, name: str) -> None:
    expected = _as_json(_suite(0, folder, name)["results"])
    metrics, items, examples, _ = expected
    assert len(metrics) == 2 * 2 * 9 + 13 + 2 * 3 and len(items) == 2 * 4 + 5 + 2 and len(examples) == 2 * 2 + 2
    for found in three:
        assert found[name]["results"] == expected


def test_suite__no_rank_is_idle(three: list[dict[str, Any]], folder: Path) -> None:
    whole = _suite(0, folder)["batches"]
    assert whole == {"images": 5, "texts": 9, "prompts": 14}
    for what, number in whole.items():
        shares = [found["all"]["batches"][what] for found in three]
        assert sum(shares) == number
        # The classes of each of two languages are shared by themselves.
        assert min(shares) >= 1 and max(shares) - min(shares) <= (2 if what == "prompts" else 1)


def test_suite__an_error_of_one_rank_ends_all_with_one_message(three: list[dict[str, Any]]) -> None:
    expected = ["NonFiniteEmbeddingsError", "evaluation set plain: 2 of 16 image embeddings are not finite"]
    for found in three:
        assert found["not finite"] == three[0]["not finite"]
        assert found["not finite"][0] == expected[0] and found["not finite"][1].startswith(expected[1])
        assert found["no image"] == three[0]["no image"]
        assert found["no image"][0] == "DataError"
        assert "evaluation set plain, by_topk, groups: image 'image-20' cannot be used" in found["no image"][1]
