"""`kelip init`: what it writes loads, names what it assumed, and replaces nothing."""

from pathlib import Path

import pytest
import yaml

from kelip_lightning.cli import main
from kelip_lightning.cli.init import default_name
from kelip_lightning.config.experiment import MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.scaffolding.experiment_files import file_patterns
from kelip_lightning.training.inputs import open_data
from tests.unit.data_modules.corpora import picture

KOREAN, ENGLISH = "붉은 사과 {} 개", "a basket of {} red apples"


def write_data(folder: Path, rows: int, *, encoding: str = "utf-8", separator: str = ",") -> Path:
    """A CSV of file, 제목, title and the pictures in a folder beside it; returns the CSV."""
    (folder / "pictures").mkdir(parents=True)
    lines = [separator.join(("file", "제목", "title"))]
    for index in range(rows):
        (folder / "pictures" / f"{index:03d}.jpg").write_bytes(picture(index))
        lines.append(separator.join((f"{index:03d}.jpg", KOREAN.format(index), ENGLISH.format(index))))
    file = folder / "pairs.csv"
    file.write_bytes("\n".join(lines).encode(encoding))
    return file


def test_init__csv_with_a_held_out_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_data(tmp_path / "my apples", 60, encoding="cp949", separator=";")
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(file)]) == 0
    report = capsys.readouterr().out
    folder = tmp_path / "experiments" / "pairs"
    written = sorted(one.name for one in folder.iterdir())
    assert written == ["base.yaml", "contrastive.yaml", "evaluation.csv", "mae.yaml", "pretrain.yaml", "train.csv"]
    assert len(report.splitlines()) <= 30
    assert "cp949, separated by ';'" in report
    assert f"kelip pretrain {folder / 'pretrain.yaml'}" in report

    experiment = load_experiment(folder / "pretrain.yaml", [], PretrainExperiment).experiment
    opened = open_data(experiment)
    assert experiment.mae is not None
    source = experiment.contrastive.data.sources["data"]
    assert (source.image, source.image_root) == ("file", str(tmp_path / "my apples" / "pictures"))
    assert source.captions == {"ko": "제목", "en": "title"}
    assert not experiment.mae.data.sources["data"].has_captions
    num_train, num_held_out = len(opened.sources["mae"][0]), 60 - len(opened.sources["mae"][0])
    assert 50 > num_train > 30  # a third is held out, 20 of 60
    assert len(opened.sources["contrastive"][0]) == 2 * num_train
    assert opened.chance["eval/held_out_ko/image_to_text_R@1"] == pytest.approx(1 / num_held_out)
    assert "eval/held_out/ko_to_en_R@1" in opened.chance
    assert "by script: 제목 (100% ko), title (100% en)" in (folder / "contrastive.yaml").read_text(encoding="utf-8")


def test_init__refuses_to_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_data(tmp_path, 8)
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(file), "--output", "here", "--name", "mine"]) == 0
    assert yaml.safe_load(Path("here/base.yaml").read_text(encoding="utf-8"))["name"] == "mine"
    Path("here/base.yaml").write_text("name: kept\n", encoding="utf-8")
    assert main(["init", str(file), "--output", "here"]) == 2
    assert "here holds base.yaml, mae.yaml, contrastive.yaml, pretrain.yaml already" in capsys.readouterr().err
    assert Path("here/base.yaml").read_text(encoding="utf-8") == "name: kept\n"
    assert main(["init", str(file), "--output", "here", "--force"]) == 0
    assert yaml.safe_load(Path("here/base.yaml").read_text(encoding="utf-8"))["name"] == "pairs"


def test_init__pictures_alone_give_mae_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path / "data", 8).unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["init", "data/pictures"]) == 0
    assert "No Korean or English captions were found: MAE pre-training only" in capsys.readouterr().out
    folder = tmp_path / "experiments" / "pictures"
    assert [one.name for one in folder.iterdir()] == ["mae.yaml"]
    experiment = load_experiment(folder / "mae.yaml", [], MaskedPretrainExperiment).experiment
    assert len(open_data(experiment).sources["mae"][0]) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing does not exist"),
        (["empty"], "holds no data: neither tar files"),
        (["empty", "--name", "a/b"], "--name 'a/b' is a folder name"),
    ],
)
def test_init__nothing_usable_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["init", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    ("path", "name"), [("/data/flowers-v1.5", "flowers-v1.5"), ("/data/my pairs.v2.csv", "my-pairs.v2"), ("/", "mine")]
)
def test_default_name(path: str, name: str) -> None:
    assert default_name(Path(path)) == name


@pytest.mark.parametrize(
    ("files", "patterns"),
    [
        (["a/08.tar", "a/09.tar", "a/10.tar"], ["a/{08..10}.tar"]),
        (["a/08.tar", "a/10.tar", "a/11.tar"], ["a/08.tar", "a/10.tar", "a/11.tar"]),
        (["t-0-of-3.parquet", "t-1-of-3.parquet", "t-2-of-3.parquet"], None),
        (["a.tar", "b.tar", "c.tar"], None),
    ],
)
def test_file_patterns__numbered_files_are_one_pattern(files: list[str], patterns: list[str] | None) -> None:
    assert file_patterns([Path(file) for file in files]) == (files if patterns is None else patterns)
