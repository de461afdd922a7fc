"""`kelip export`."""

from pathlib import Path

import pytest
import torch

from kelip_lightning.cli import main


def test_export__passes_on_what_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, str, Path, torch.dtype, str]] = []

    def export_model(source: Path, name: object, output: Path, *, dtype: torch.dtype, notes: str) -> None:
        asked.append((source, getattr(name, "name", ""), output, dtype, notes))
        output.mkdir()
        (output / "model.safetensors").touch()

    monkeypatch.setattr("kelip_lightning.interchange.folder.export_model", export_model)
    output = tmp_path / "out"
    notes = tmp_path / "notes.md"
    notes.write_text("## Limits\n", encoding="utf-8")
    options = ["--format", "open_clip", "--dtype", "float16", "--card-notes", str(notes)]
    assert main(["export", str(tmp_path), *options, "--output", str(output)]) == 0
    assert asked == [(tmp_path, "open_clip", output, torch.float16, "## Limits\n")]
    assert capsys.readouterr().out == f"{output}: model.safetensors\n"


def test_export__no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(tmp_path / "nowhere"), "--format", "kelip", "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_export__unknown_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path), "--format", "torchscript", "--output", "x"])
    assert "invalid choice: 'torchscript'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "kelip", "--int8"], "--int8 is for --format onnx, and the format is kelip: remove it"),
        (["--format", "kelip", "--private"], "--private is about the repository of --push, and there is none"),
        (["--format", "kelip", "--push", "emoji"], "--push emoji is not the name of a repository; give ORG/NAME"),
    ],
)
def test_export__options_without_effect_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
