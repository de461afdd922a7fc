"""What an exported folder holds, and what is refused before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import ExportError
from kelip_lightning.interchange.folder import ExportFormat, export_model
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import save_dual_encoder
from tests.paths import FIXTURES

TinyDualEncoder = Callable[..., DualEncoder]
OFFICIAL = FIXTURES / "official_kelip_tiny"

FILES = {
    ExportFormat.transformers: {"config.json", "model.safetensors", "preprocessor_config.json"},
    ExportFormat.open_clip: {"open_clip_config.json", "open_clip_model.safetensors"},
    ExportFormat.kelip: {"config.json", "model.safetensors", "preprocessor_config.json"},
}


@pytest.fixture
def run(tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path) -> Path:
    model = tiny_dual_encoder(image={"width": 64, "num_heads": 1})
    card = "---\nlanguage: ko\n---\n# run\n\n| Training | 7 steps |\n"
    save_dual_encoder(tmp_path / "run" / "contrastive" / "dual_encoder", model, tiny_tokenizer, card)
    report = {
        "step": 7,
        "metrics": {"eval/a_ko/image_to_text_R@1": 0.5},
        "chance": {"eval/a_ko/image_to_text_R@1": 0.1},
    }
    (tmp_path / "run" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return tmp_path / "run"


@pytest.mark.parametrize("name", list(ExportFormat))
def test_export__files_and_model_card(run: Path, tmp_path: Path, name: ExportFormat) -> None:
    output = tmp_path / "deep" / "out"
    export_model(run, name, output)
    always = {"tokenizer.json", "tokenizer_config.json", "README.md"}
    assert {file.name for file in output.iterdir()} == FILES[name] | always
    assert [one.name for one in output.parent.iterdir()] == ["out"]
    card = (output / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["language"] == ["ko", "en"]
    assert head["library_name"] == name.value
    for part in ("| Training | 7 steps |", "| a_ko/image_to_text_R@1 | 0.5000 | 0.1000 |", "After step 7", "```python"):
        assert part in card
    assert card.count("language:") == 1, "the run's own front matter is replaced"


def test_export__into_an_empty_folder_but_never_over_files(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    export_model(run, ExportFormat.kelip, output)
    before = {file: file.read_bytes() for file in output.iterdir()}
    with pytest.raises(ExportError, match=r"--output .*out is there already"):
        export_model(run, ExportFormat.open_clip, output)
    assert {file: file.read_bytes() for file in output.iterdir()} == before


def test_export__a_full_disk_leaves_nothing_behind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_file(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kelip_lightning.interchange.folder.save_file", save_file)
    with pytest.raises(OSError, match="No space left"):
        export_model(run, ExportFormat.kelip, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_export__needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"holds no tokenizer\.json"):
        export_model(OFFICIAL, ExportFormat.open_clip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export__one_layout_into_another(run: Path, tmp_path: Path) -> None:
    export_model(run, ExportFormat.kelip, tmp_path / "kelip")
    export_model(tmp_path / "kelip", ExportFormat.transformers, tmp_path / "transformers")
    card = (tmp_path / "transformers" / "README.md").read_text(encoding="utf-8")
    assert "| Training | 7 steps |" in card
    assert card.startswith("---\nlanguage:\n- ko\n- en\nlibrary_name: transformers\n")
