"""The three analyses from a run on disk to records, through the command line, and with models that are none of ours."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets.config
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from transformers import BertConfig, BertModel

from data_modules.benchmarks.config import CaptionSetConfig, GalleryConfig, TableConfig
from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer
from kelip_lightning.analyses.analyze import Encoders, analyze_cross_lingual, untrained_control
from kelip_lightning.cli import main
from kelip_lightning.config.analysis import CrossLingualAnalysis, ResamplingConfig
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig, TextPooling
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import TrainedModel, build_dual_encoder, save_dual_encoder
from kelip_lightning.runs.folder import RunFolder

NUM_ROLES = 12


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Images of men and women in roles, each with a name in both languages and a question."""
    generator, rows = np.random.default_rng(0), []
    for role in range(NUM_ROLES):
        for form, ko, en in (("m", "남자", "man"), ("w", "여자", "woman")):
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
            rows.append(
                {
                    "key": f"{form}-{role}",
                    "image": {"bytes": buffer.getvalue()},
                    "concept": f"{form}-{role}",
                    "role": str(role),
                    "name_ko": f"{ko} {role}",
                    "name_en": f"{en} {role}",
                    "question": "누구인가요?",
                    "options": ["남자", "여자"],
                    "answer": ko,
                }
            )
    file = tmp_path / "people.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return str(file)


@pytest.fixture
def finished_run(
    tmp_path: Path, tiny_dual_encoder: Callable[..., DualEncoder], tiny_tokenizer: BilingualTokenizer
) -> RunFolder:
    run = RunFolder.create(tmp_path / "tiny", config="{}\n", overrides=[], plan={})
    save_dual_encoder(run.dual_encoder, tiny_dual_encoder(), tiny_tokenizer, "card")
    return run


def settings_of(question: str, table: str, folder: Path) -> dict[str, Any]:
    gallery = {"files": [table]}
    if question == "cross-lingual":
        names = {"ko": "name_ko", "en": "name_en"}
        return {"captions": {"names": {"table": {"files": [table], "captions": names}}}, "gallery": gallery}
    if question == "analogy":
        terms = {
            "man": {"parts": ["m"], "ko": ["남자"], "en": ["man"]},
            "woman": {"parts": ["w"], "ko": ["여자"], "en": ["woman"]},
        }
        relation = {"terms": terms, "changes": {"man": "woman", "woman": "man"}}
        return {"sets": {"people": {"gallery": gallery, "cluster": "role", "relations": {"gender": relation}}}}
    words = {
        "pairs": {"food": [["밥", "rice"], ["국", "soup"]]},
        "controls": {"sky": [[f"별{i}", f"star {i}"] for i in range(21)]},
    }
    (folder / "words.yaml").write_text(yaml.safe_dump(words, allow_unicode=True), encoding="utf-8")
    choices = {"quiz": {"table": {"files": [table]}, "language": "ko", "options": ["options"]}}
    return {"word_pairs": str(folder / "words.yaml"), "gallery": gallery, "num_draws": 999, "choices": choices}


def analyze(question: str, run: RunFolder, table: str, *more: str) -> int:
    folder = run.path.parent
    content = {"resampling": {"num_resamples": 100}, **settings_of(question, table, folder)}
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return main(["analyze", question, str(run.path), str(file), *more])


@pytest.mark.parametrize(
    ("question", "num_items", "plots"),
    [
        ("cross-lingual", 2 * NUM_ROLES, {"cross_lingual_names"}),
        ("culture", 23 + 2 * NUM_ROLES, {"overlap", "word_pairs"}),
        ("analogy", None, {f"analogy_people{part}" for part in ("", "_relations", "_lambda", "_examples")}),
    ],
)
def test_analyze__writes_records_and_plots_and_prints_a_table(
    question: str,
    num_items: int | None,
    plots: set[str],
    finished_run: RunFolder,
    table: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert analyze(question, finished_run, table) == 0
    printed = capsys.readouterr().out
    folder = finished_run.path / "analyses" / question
    document = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    weights = (finished_run.dual_encoder / "model.safetensors").read_bytes()
    assert document["checkpoint"]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert "num_resamples: 100" in document["settings"]
    with (folder / "summary.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["value"]) for row in rows] == [row["value"] for row in document["summary"]]
    assert all(row["low"] <= row["high"] for row in document["summary"])
    with (folder / "items.csv").open(encoding="utf-8-sig", newline="") as stream:
        items = list(csv.DictReader(stream))
    assert len(items) == len(document["items"])
    assert num_items is None or len(items) == num_items
    assert {file.stem for file in folder.glob("*.png")} == plots
    assert all(statement in printed for statement in document["statements"])


def test_analyze__same_records_again_as_json_in_another_folder(
    finished_run: RunFolder, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for name in ("one", "two"):
        assert analyze("analogy", finished_run, table, "--json", "--output", str(tmp_path / name)) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0]["summary"] == printed[1]["summary"]
    assert printed[0]["items"] == printed[1]["items"]
    written = json.loads((tmp_path / "two" / "analysis.json").read_text(encoding="utf-8"))
    assert written["items"] == printed[1]["items"]


def test_analyze__invalid_input_fails_before_anything_is_embedded(
    finished_run: RunFolder, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error_of(*more: str) -> str:
        assert analyze("culture", finished_run, table, *more) == 2
        return capsys.readouterr().err

    assert "top = 99 needs as many images, and the gallery has 24" in error_of("top_k=99")
    assert "words/nowhere.yaml do not exist" in error_of("word_pairs=words/nowhere.yaml")
    assert "num_draws = 10 must be at least 999" in error_of("num_draws=10")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert "holds files of something else" in error_of("--output", str(tmp_path / "full"))
    (tmp_path / "a_file").touch()
    assert "cannot be written" in error_of("--output", str(tmp_path / "a_file" / "below"))


def test_untrained_control__follows_from_the_seed_and_leaves_the_random_stream_alone(
    tiny_dual_encoder: Callable[..., DualEncoder], tiny_tokenizer: BilingualTokenizer
) -> None:
    trained = TrainedModel(model=tiny_dual_encoder(), tokenizer=tiny_tokenizer)
    before = torch.get_rng_state()
    weights = [untrained_control(trained, seed).model.text_projection.weight for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[2], trained.model.text_projection.weight)


@pytest.mark.parametrize(("hf_weights", "folder_is_gone"), [(True, False), (True, True), (False, True)])
def test_untrained_control__has_fresh_weights_where_the_model_started_from_trained_ones(
    tmp_path: Path, tiny_image_config: Callable[..., ImageEncoderConfig], hf_weights: bool, folder_is_gone: bool
) -> None:
    """And it needs neither the folder nor the Hub: those may be gone when a run is analysed."""
    texts = ["사과", "red apple"] * 3
    tokenizer = train_tokenizer(texts, 280, 12)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**sizes, vocab_size=400, max_position_embeddings=12)).save_pretrained(tmp_path / "bert")
    text = TextEncoderConfig(
        width=16, depth=1, num_heads=2, mlp_ratio=2.0, pooling=TextPooling.mean, hf_model=str(tmp_path / "bert"),
        hf_weights=hf_weights,
    )  # fmt: skip
    model = build_dual_encoder(tiny_image_config(), text, DualEncoderConfig(embed_dim=8), tokenizer)
    if folder_is_gone:
        shutil.rmtree(tmp_path / "bert")
    control = untrained_control(TrainedModel(model=model, tokenizer=tokenizer), 7).model
    trained = dict(model.text_encoder.named_parameters())
    fresh = dict(control.text_encoder.named_parameters())
    assert {name: one.shape for name, one in fresh.items()} == {name: one.shape for name, one in trained.items()}
    same = [name for name, one in fresh.items() if torch.equal(one, trained[name])]
    # Biases and norms start at one value whatever the seed is.
    assert [name for name in same if fresh[name].unique().numel() > 1] == []


def test_analyze_cross_lingual__takes_any_model_that_encodes(table: str) -> None:
    def of_number(texts: list[str]) -> Tensor:
        """A model that reads what both languages share: who, and the number."""
        return torch.stack(
            [
                torch.cat(
                    [
                        torch.eye(NUM_ROLES)[int(text.split()[1])],
                        torch.eye(2)[int(text.split()[0] in ("여자", "woman"))],
                    ]
                )
                for text in texts
            ]
        )

    def of_nothing(texts: list[str]) -> Tensor:
        return torch.ones(len(texts), 4)

    def images(pixels: Tensor) -> Tensor:
        return pixels.float().mean(dim=(2, 3))

    names = TableConfig(files=[table], captions={"ko": "name_ko", "en": "name_en"})
    settings = CrossLingualAnalysis(
        captions={"names": CaptionSetConfig(table=names)}, resampling=ResamplingConfig(num_resamples=100)
    )
    outcome = analyze_cross_lingual(
        Encoders(images=images, texts=of_number, image_size=8),
        Encoders(images=images, texts=of_nothing, image_size=8),
        settings,
    )
    metrics = {(one.subject, one.measure): one.interval.value for one in outcome.findings.summary}
    assert metrics["names", "ko_to_en_R@1"] == 1.0
    assert metrics["names, untrained control", "ko_to_en_R@1"] == 0.0


def test_analyze_cross_lingual__embeds_the_gallery_once_for_any_number_of_caption_sets(table: str) -> None:
    names = TableConfig(files=[table], captions={"ko": "name_ko", "en": "name_en"})
    settings = CrossLingualAnalysis(
        captions={name: CaptionSetConfig(table=names) for name in ("one", "two", "three")},
        gallery=GalleryConfig(files=[table]),
        resampling=ResamplingConfig(num_resamples=100),
    )
    embedded = {"model": 0, "control": 0}

    def encoders(name: str) -> Encoders:
        def images(pixels: Tensor) -> Tensor:
            embedded[name] += len(pixels)
            return pixels.float().mean(dim=(2, 3))

        def texts(texts: list[str]) -> Tensor:
            return torch.tensor([[float(len(text)), float(ord(text[0]) % 7), 1.0] for text in texts])

        return Encoders(images=images, texts=texts, image_size=8)

    outcome = analyze_cross_lingual(encoders("model"), encoders("control"), settings)
    assert embedded == {"model": 2 * NUM_ROLES, "control": 2 * NUM_ROLES}
    gaps = [one.subject for one in outcome.findings.summary if one.measure == "gap ko–image"]
    assert gaps == [f"{name}{end}" for name in ("one", "two", "three") for end in ("", ", untrained control")]


def test_analyze__several_runs_of_an_analogy(
    finished_run: RunFolder, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished_run.path, other)
    words = ("analogy", str(finished_run.path), str(other))
    file = tmp_path / "analogy.yaml"
    file.write_text(yaml.safe_dump(settings_of("analogy", table, tmp_path), allow_unicode=True), encoding="utf-8")

    def refused(*more: str) -> str:
        assert main(["analyze", *more]) == 2
        return capsys.readouterr().err

    assert "2 runs have no folder in common" in refused(*words, str(file))
    assert "no FILE.yaml among" in refused(*words)
    assert "no run before" in refused("analogy", str(file), str(other))
    output = ("--output", str(tmp_path / "both"))
    assert "stands twice" in refused("analogy", str(other), str(other), str(file), *output)
    names = {"ko": "name_ko", "en": "name_en"}
    captions = tmp_path / "captions.yaml"
    captions.write_text(
        yaml.safe_dump({"captions": {"names": {"table": {"files": [table], "captions": names}}}}), encoding="utf-8"
    )
    assert "2 runs are given, and this analysis takes one" in refused(
        "cross-lingual", *words[1:], str(captions), *output
    )
    assert main(["analyze", *words, str(file), "resampling.num_resamples=100", *output]) == 0
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "both" / "analysis.json").read_text(encoding="utf-8"))
    assert [one["run"] for one in document["checkpoint"]] == [finished_run.name, "other"]
    assert {item["run"] for item in document["items"]} == {finished_run.name, "other"}
    assert all(0 <= row["low"] <= row["high"] for row in document["summary"] if "−" not in row["measure"])
    assert "people, gender over 2 runs, top-1:" in printed
    assert (tmp_path / "both" / "analogy_people.png").is_file()


def test_analyze__trained_words_need_what_the_run_was_trained_on(
    finished_run: RunFolder, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(yaml.safe_dump({"trained_words": {}, "gallery": {"files": [table]}}), encoding="utf-8")
    assert main(["analyze", "culture", str(finished_run.path), str(file)]) != 0
    assert "config.yaml cannot be read by this revision" in capsys.readouterr().err
    file.write_text(yaml.safe_dump({"gallery": {"files": [table]}}), encoding="utf-8")
    assert main(["analyze", "culture", str(finished_run.path), str(file)]) == 2
    assert "name either word_pairs, a file of words, or trained_words" in capsys.readouterr().err
