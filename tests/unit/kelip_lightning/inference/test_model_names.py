"""What may stand for MODEL."""

from pathlib import Path

import pytest

from kelip_lightning.errors import RunFolderError
from kelip_lightning.inference.model_names import check_model_name
from kelip_lightning.interchange.model_names import SHIPPED_MODELS


def test_shipped_model__that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHIPPED_MODELS, "other", "package:assets/models/other")
    with pytest.raises(RunFolderError, match="the model other is not part of this installation"):
        check_model_name("other")


@pytest.mark.parametrize(
    "name",
    ["ViT-B/32", "package:assets/models/emoji", "open_clip:ViT-B-32:openai", "transformers:a/b", "org/name"],
)
def test_names_that_may_be_models(name: str) -> None:
    check_model_name(name)


def test_folders__of_models(tmp_path: Path) -> None:
    check_model_name(str(tmp_path))


@pytest.mark.parametrize("name", ["emojii", "runs/emojii", "/nowhere/at/all"])
def test_folders__that_do_not_exist(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(RunFolderError, match=f"run folder {name} does not exist"):
        check_model_name(name)


def test_folders__of_unfinished_runs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: a\n", encoding="utf-8")
    (tmp_path / "mae").mkdir()
    with pytest.raises(RunFolderError, match="has no finished model"):
        check_model_name(str(tmp_path))
