"""Zero-shot prediction."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.inference.evaluate import predict
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import save_dual_encoder
from kelip_lightning.runs.folder import RunFolder

TEXTS = ["사과", "green apple", "red apple"]


@pytest.fixture
def ask(
    tmp_path: Path, tiny_dual_encoder: Callable[..., DualEncoder], tiny_tokenizer: BilingualTokenizer
) -> Callable[[str], list[float]]:
    """The probabilities of `TEXTS` by a model; parameters with the prefix `broken` are NaN."""
    run = RunFolder.create(tmp_path / "tiny", config="{}\n", overrides=[], plan={})
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "red.png")

    def probabilities(broken: str) -> list[float]:
        model = tiny_dual_encoder()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if broken and name.startswith(broken):
                    parameter.fill_(torch.nan)
        save_dual_encoder(run.dual_encoder, model, tiny_tokenizer, "card")
        return predict(str(run.path), tmp_path / "red.png", TEXTS, torch.device("cpu"))

    return probabilities


def test_predict__probabilities_sum_to_one(ask: Callable[[str], list[float]]) -> None:
    assert sum(ask("")) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("image_projection", "1 of 1 image embeddings are not finite"),
        ("text_projection", "3 of 3 text embeddings are not finite"),
        ("logit_scale", "3 of 3 scaled text embeddings are not finite"),
    ],
)
def test_predict__nan_weights_raise(ask: Callable[[str], list[float]], broken: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(broken)
