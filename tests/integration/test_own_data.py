"""docs/own-data.md: every block of the page runs, on small pictures in every format.

All YAML files are loaded and their data opened here; the commands and trainings are slow tests.
"""

import csv
import io
import json
import re
import shlex
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data_modules.faults import SampleFault
from kelip_lightning.cli import main
from kelip_lightning.cli.verb import load_any_experiment
from kelip_lightning.planning.stage_plan import check_contrastive_batches, stages_of
from kelip_lightning.training.inputs import open_data
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {text.splitlines()[0].removeprefix("# "): text for kind, text in BLOCKS if kind == "yaml"}
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
EXPERIMENTS = [name for name in FILES if name not in ("evaluation.yaml", "classes.yaml")]
TINY = ["data.global_batch_size=4", "schedule.max_steps=21", "schedule.warmup_steps=1"]
"""The overrides that the page states; 40 rows are 80 pairs, and a run must see each. `kelip init` holds 20 rows out,
and a larger batch would hold too many of the other 40 pairs twice."""
NUM_TRAIN, NUM_TEST = 40, 10

Row = dict[str, Any]


def _rows() -> list[Row]:
    """Pictures of the embedded corpus with their names, as a lab has them."""
    file = ROOT / "data_modules" / "emoji" / "twemoji.parquet"
    table = pq.read_table(file, columns=["image", "name_ko", "name_en", "group"])
    chosen = table.take(pa.array(range(0, len(table), len(table) // 60))).slice(0, NUM_TRAIN + NUM_TEST).to_pylist()
    return [
        {
            "file": f"{number:04d}.webp",
            "title_ko": row["name_ko"],
            "title_en": row["name_en"],
            "kind": "face" if row["group"].startswith("Smileys") else "other",
            "image": row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"],
        }
        for number, row in enumerate(chosen, start=1)
    ]


def write_csv(
    file: Path, rows: Sequence[Row], names: dict[str, str], *, encoding: str = "utf-8", by: str = ","
) -> None:
    """A CSV with a column for each `names`: column -> key of the rows."""
    with file.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream, delimiter=by)
        writer.writerow(names)
        writer.writerows([row[key] for key in names.values()] for row in rows)


def _write_tar(file: Path, rows: Sequence[Row]) -> None:
    with tarfile.open(file, "w") as archive:
        for row in rows:
            metadata = {"caption_ko": row["title_ko"], "url": f"https://example.org/{row['file']}", "status": "success"}
            members = {"webp": row["image"], "txt": row["title_en"].encode(), "json": json.dumps(metadata).encode()}
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{row['file'][:4]}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def _write_dataset(folder: Path, parts: dict[str, Sequence[Row]]) -> None:
    features = datasets.Features(
        image=datasets.Image(), text=datasets.Value("string"), language=datasets.Value("string")
    )
    saved = {}
    for split, rows in parts.items():
        both = [(row, language) for row in rows for language in ("ko", "en")]
        columns = {
            "image": [{"bytes": row["image"], "path": None} for row, _ in both],
            "text": [row[f"title_{language}"] for row, language in both],
            "language": [language for _, language in both],
        }
        saved[split] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(saved).save_to_disk(str(folder))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's data in every format, and its YAML files."""
    folder, rows = tmp_path_factory.mktemp("own_data"), _rows()
    train, test = rows[:NUM_TRAIN], rows[NUM_TRAIN:]
    for name in ("pictures", "tars", "parquet", "imagefolder/train", "imagefolder/test"):
        (folder / name).mkdir(parents=True)
    for row in rows:
        (folder / "pictures" / row["file"]).write_bytes(row["image"])
    titles = {"title_ko": "title_ko", "title_en": "title_en"}
    for name, part in (("pairs", train), ("test", test)):
        write_csv(folder / f"{name}.csv", part, {"file": "file", **titles, "kind": "kind"})
        lines = [json.dumps({key: row[key] for key in ("file", *titles)}, ensure_ascii=False) for row in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split, part in (("train", train), ("test", test)):
        for row in part:
            (folder / "imagefolder" / split / row["file"]).write_bytes(row["image"])
        write_csv(folder / "imagefolder" / split / "metadata.csv", part, {"file_name": "file", **titles})
    for number, part in enumerate(_tens(rows)):
        _write_tar(folder / "tars" / f"{number:05d}.tar", part)
    for name, part in (("train-0", train[:20]), ("train-1", train[20:]), ("test", test)):
        table = pa.Table.from_pylist([{key: row[key] for key in ("image", *titles)} for row in part])
        pq.write_table(table, folder / "parquet" / f"{name}.parquet")
    _write_dataset(folder / "dataset", {"train": train, "test": test})
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _tens(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    return (rows[start : start + 10] for start in range(0, len(rows), 10))


@pytest.fixture
def place(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data, which is the working directory."""
    monkeypatch.chdir(data)
    return data


def test_the_page_has_a_short_file_per_format() -> None:
    formats = ["tars.yaml", "csv.yaml", "parquet.yaml", "dataset.yaml", "imagefolder.yaml", "pictures.yaml"]
    assert formats == EXPERIMENTS
    assert {kind for kind, _ in BLOCKS} == {"yaml", "sh"}
    assert all(len(text.splitlines()) <= 40 for text in FILES.values())
    assert all(line.startswith("kelip ") for line in COMMANDS)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_data_of_every_file_opens(name: str) -> None:
    experiment = load_any_experiment(name, TINY, on_this_machine=True).experiment
    opened = open_data(experiment)
    check_contrastive_batches(experiment, opened.sources)
    for stage, sources in opened.sources.items():
        (source,) = sources
        per_row = 2 if stage == "contrastive" or name == "dataset.yaml" else 1
        expected = per_row * (NUM_TRAIN if name != "pictures.yaml" else NUM_TRAIN + NUM_TEST)
        records = source.records(range(len(source)))
        assert len(records) == expected
        assert not [one for one in records if isinstance(one, SampleFault)]
        languages = {one.language for one in records if not isinstance(one, SampleFault)}
        assert languages == ({"ko", "en"} if stage == "contrastive" else {""})
    stages = stages_of(experiment)
    num_sets = 0 if "contrastive" not in stages else 2 if name == "dataset.yaml" else 1
    assert len(list(opened.sets)) == num_sets


def _with_overrides(command: str) -> list[str]:
    arguments = shlex.split(command)[1:]
    return arguments + (TINY if arguments[0] in ("pretrain", "contrastive", "mae") else [])


@pytest.mark.usefixtures("place")
def test_every_experiment_of_the_commands_loads() -> None:
    loaded = []
    for command in COMMANDS:
        verb, file, *overrides = _with_overrides(command)
        if file in FILES:
            without = [one for one in overrides if not one.startswith("init.")]
            load_any_experiment(file, without, on_this_machine=True)
            loaded.append((verb, file))
    assert loaded == [("pretrain", "csv.yaml"), ("mae", "pictures.yaml"), ("contrastive", "imagefolder.yaml")]


@pytest.mark.slow
def test_every_block_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = set()
    for command in COMMANDS:
        arguments = _with_overrides(command)
        assert main(arguments) == 0, (command, capsys.readouterr())
        done.add(arguments[1])
        if arguments[0] == "evaluate" and "evaluation.yaml" in arguments and "--json" in arguments:
            printed = capsys.readouterr().out
            for metric in (
                "eval/titles_ko/image_to_text_R@1",
                "eval/titles/ko_to_en_R@1",
                "eval/kinds_en/zero_shot_top1",
            ):
                assert metric in printed
    for name in EXPERIMENTS:
        if name not in done:
            verb = "pretrain" if "contrastive" in yaml.safe_load(FILES[name]) else "mae"
            assert main([verb, name, *TINY]) == 0, (name, capsys.readouterr())
    assert (place / "exported/mine/open_clip_model.safetensors").is_file()
