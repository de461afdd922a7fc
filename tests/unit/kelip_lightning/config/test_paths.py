"""What relative paths of experiments are relative to."""

import copy
import os
from pathlib import Path

import pytest
import yaml

from data_modules.sources.config import SourceConfig
from kelip_lightning.config.evaluation import EvaluationExperiment
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.load import LoadedExperiment, load_experiment
from kelip_lightning.config.paths import adopt_moved
from kelip_lightning.errors import ConfigError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with lab/base.yaml, which lab/own/sets.yaml extends; the working directory is lab's neighbour `here`."""
    for name in ("lab/own", "here"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def write(file: Path, content: object) -> Path:
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def sets_file(place: Path, *files: str, **evaluation: object) -> Path:
    base = {"evaluation": {"retrieval": {"base": {"table": {"files": ["base.csv"], "captions": {"ko": "ko"}}}}}}
    write(place / "lab" / "base.yaml", base)
    own = {"table": {"files": list(files), "captions": {"ko": "ko"}}}
    content = {"extends": "../base.yaml", "evaluation": {"retrieval": {"own": own}} | evaluation}
    return write(place / "lab" / "own" / "sets.yaml", content)


def load(file: Path, *overrides: str) -> LoadedExperiment[EvaluationExperiment]:
    return load_experiment(file, overrides, EvaluationExperiment, on_this_machine=False)


def files_of(loaded: LoadedExperiment[EvaluationExperiment]) -> dict[str, list[str]]:
    return {name: one.table.files for name, one in loaded.experiment.evaluation.retrieval.items()}


def test_files__are_relative_to_the_file_that_names_them(place: Path) -> None:
    loaded = load(
        sets_file(place, "val.csv", "../{a,b}/*.csv", "package:emoji/noto.parquet", "~/x.csv", "s3://b/x.tar")
    )
    assert files_of(loaded) == {
        "base": [str(place / "lab" / "base.csv")],
        "own": [
            str(place / "lab" / "own" / "val.csv"),
            str(place / "lab" / "{a,b}" / "*.csv"),
            "package:emoji/noto.parquet",
            "~/x.csv",
            "s3://b/x.tar",
        ],
    }
    (place / "here" / "stored.yaml").write_text(loaded.resolved, encoding="utf-8")
    assert load(place / "here" / "stored.yaml").experiment == loaded.experiment


def test_files__of_overrides_are_relative_to_the_working_directory(place: Path) -> None:
    loaded = load(sets_file(place, "val.csv"), "evaluation.retrieval.own.table.files=[val.csv]")
    assert files_of(loaded)["own"] == [str(place / "here" / "val.csv")]


def test_files__below_a_data_folder_are_relative_to_it(place: Path) -> None:
    loaded = load(sets_file(place, "val.csv", data_folder="data"))
    assert loaded.experiment.evaluation.data_folder == str(place / "lab" / "own" / "data")
    assert files_of(loaded) == {"base": ["base.csv"], "own": ["val.csv"]}
    assert load(sets_file(place, "val.csv"), "evaluation.data_folder=data").experiment.evaluation.data_folder == str(
        place / "here" / "data"
    )


def test_files__names_of_datasets_stay_names_and_folders_do_not(place: Path) -> None:
    file = sets_file(place, "saved/set")
    assert files_of(load(file))["own"] == ["saved/set"]
    (place / "lab" / "own" / "saved" / "set").mkdir(parents=True)
    assert files_of(load(file))["own"] == [str(place / "lab" / "own" / "saved" / "set")]


def test_files__a_folder_of_the_working_directory_is_not_taken_for_one_beside_the_file(place: Path) -> None:
    (place / "here" / "saved").mkdir()
    with pytest.raises(ConfigError) as caught:
        load(sets_file(place, "saved"))
    assert caught.value.problems == [
        f"evaluation.retrieval.own.table.files: 'saved' is not in {place}/lab/own but in the working directory, and "
        "paths in a YAML file are relative to the file; write ../../here/saved, or the absolute path"
    ]


def test_stored__earlier_relative_paths_are_relative_to_the_working_directory(place: Path) -> None:
    file = sets_file(place, "val.csv")
    loaded = load_experiment(file, [], EvaluationExperiment, on_this_machine=False, stored=True)
    assert files_of(loaded)["own"] == [str(place / "here" / "val.csv")]


def test_training__all_paths_of_a_stage(place: Path, experiments: Path) -> None:
    stage = {
        "data": {"sources": {"s": {"files": ["a.csv"], "captions": {"ko": "ko"}, "image_root": "images"}}},
        "tokenizer": {"file": "tokenizer.json"},
        "init": {"image_encoder": "runs/mae/image_encoder"},
    }
    stage["data"] |= {"captions": {"templates_file": "templates.yaml"}}  # type: ignore[operator]
    file = write(place / "lab" / "x.yaml", {"extends": str(experiments / "pretrain.yaml"), "contrastive": stage})
    found = load_experiment(file, ["mae=null"], PretrainExperiment, on_this_machine=False).experiment.contrastive
    lab = place / "lab"
    source = found.data.sources["s"]
    assert (source.files, source.image_root) == ([str(lab / "a.csv")], str(lab / "images"))
    assert found.data.captions.templates_file == str(lab / "templates.yaml")
    assert found.tokenizer.file == str(lab / "tokenizer.json")
    assert found.init.image_encoder == str(place / "here" / "runs/mae/image_encoder"), "as runs are"
    assert found.output_dir == "runs"


def test_training__a_missing_file_that_the_working_directory_has(place: Path, experiments: Path) -> None:
    (place / "here" / "data").mkdir()
    (place / "here" / "data" / "a.csv").write_text("image,ko\n", encoding="utf-8")
    stage = {"data": {"sources": {"s": {"files": ["data/a.csv"], "captions": {"ko": "ko"}}}}}
    file = write(place / "lab" / "x.yaml", {"extends": str(experiments / "pretrain.yaml"), "contrastive": stage})
    with pytest.raises(ConfigError) as caught:
        load_experiment(file, ["mae=null"], PretrainExperiment, heavy=False)
    (problem,) = [one for one in caught.value.problems if "data.sources.s" in one]
    assert f"write {os.path.join('..', 'here', 'data', 'a.csv')} in {place}/lab" in problem


def test_adopt_moved__only_files_that_were_moved(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "new" / name).write_text("", encoding="utf-8")

    def source(name: str, folder: str) -> SourceConfig:
        return SourceConfig(files=[str(tmp_path / folder / name)], captions={"ko": "ko"})

    moved, same = source("a.csv", "old"), source("a.csv", "new")
    assert list(adopt_moved(moved, same, "s")) == [f"s.files: {[str(tmp_path / 'old/a.csv')]} -> {same.files}"]
    assert moved == same
    other = source("b.csv", "old")
    before = copy.copy(other)
    assert list(adopt_moved(other, same)) == []
    assert other == before, "another file is another data set"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a.csv").write_text("", encoding="utf-8")
    assert list(adopt_moved(source("a.csv", "old"), same)) == [], "the old file is still there"
