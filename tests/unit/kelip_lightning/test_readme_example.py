"""The Python example in the README runs as it stands."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import save_dual_encoder
from tests.paths import ROOT

README = ROOT / "README.md"


def test_example__prints_a_probability_for_each_caption(
    tiny_dual_encoder: Callable[..., DualEncoder],
    tiny_tokenizer: BilingualTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    folder = tmp_path / "runs" / "emoji" / "contrastive" / "dual_encoder"
    save_dual_encoder(folder, tiny_dual_encoder(), tiny_tokenizer, "# card")
    Image.new("RGBA", (90, 70), (200, 30, 30, 128)).save(tmp_path / "apple.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})
    lines = [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [caption for _, caption in lines] == ["빨간 사과", "a red apple", "고양이 얼굴", "a cat face"]
    assert sum(float(percent.rstrip("%")) for percent, _ in lines) == pytest.approx(100, abs=0.3)
