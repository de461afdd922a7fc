"""`kelip search` and `kelip embed` on the command line."""

from pathlib import Path

import pytest
from PIL import Image

from kelip_lightning.cli import main
from tests.paths import ROOT

RUN = str(ROOT / "tests" / "fixtures" / "run_of_e16296c" / "runs" / "finished")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, and a file that is none."""
    found = tmp_path / "pictures"
    found.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (40, 30), name).save(found / f"{name}.png")
    (found / "cut.png").write_bytes(b"\x89PNG")
    return found


def test_embed__writes_updates_and_tells(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["embed", RUN, str(folder), "--output", str(tmp_path / "new" / "out.parquet"), "--device", "cpu"]
    assert main([*command, "--max-broken", "0.5"]) == 0
    printed = capsys.readouterr()
    assert "3 images: 2 embedded, 0 there already" in printed.out
    assert "out.parquet: 2 rows" in printed.out
    assert "1 cannot be read and are left out:\n  cut.png: " in printed.err
    assert main([*command, "--max-broken", "0.5"]) == 0
    assert "3 images: 0 embedded, 2 there already" in capsys.readouterr().out
    assert main(command) == 2
    assert "1 of 3 images" in capsys.readouterr().err


def test_embed__output_of_another_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", RUN, str(folder), "--output", "out.npy"]) == 2
    assert "--output out.npy must end in .parquet" in capsys.readouterr().err


def test_embed__share_above_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["embed", RUN, str(folder), "--output", "out.parquet", "--max-broken", "2"])
    assert "2 must be a number from 0 to 1" in capsys.readouterr().err


def test_search__time(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cut.png").unlink()
    command = ["search", RUN, str(folder), "--index", str(tmp_path / "index.parquet"), "--time", "--device", "cpu"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "2 pictures: median " in printed
    assert "10,000 pictures: median " in printed


def test_search__without_gradio(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gradio" else object())
    assert main(["search", RUN, str(folder)]) == 2
    message = "the page needs gradio, which is not installed; run: pip install 'kelip-lightning[demo]'"
    assert capsys.readouterr().err == f"kelip: {message}\n"


@pytest.mark.parametrize("word", ["fr=a", "ko", "ko="])
def test_search__caption_columns(folder: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    with pytest.raises(SystemExit):
        main(["search", RUN, str(folder), "--caption-columns", word])
    assert f"{word} must be ko=COLUMN or en=COLUMN" in capsys.readouterr().err
