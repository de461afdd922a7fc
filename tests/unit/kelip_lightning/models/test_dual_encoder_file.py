"""A trained dual encoder as a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_modules.errors import DataError
from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.dual_encoder_file import load_dual_encoder, save_dual_encoder
from kelip_lightning.models.encoder_file import save_image_encoder

TinyDualEncoder = Callable[..., DualEncoder]
TEXTS = ["빨간 사과", "green apple", "🍎 [EOT]"]


@pytest.fixture
def stored(
    tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path
) -> tuple[DualEncoder, Path]:
    model = tiny_dual_encoder(initial_temperature=0.05, max_logit_scale=30.0)
    save_dual_encoder(tmp_path / "dual_encoder", model, tiny_tokenizer, "# card")
    return model.eval(), tmp_path / "dual_encoder"


def test_load_dual_encoder__round_trip_bit_for_bit(
    stored: tuple[DualEncoder, Path], tiny_tokenizer: BilingualTokenizer
) -> None:
    model, folder = stored
    trained = load_dual_encoder(folder)
    assert not trained.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], tensor), name
    assert trained.model.config == model.config
    assert trained.model.image_encoder.config == model.image_encoder.config
    assert trained.model.text_encoder.config == model.text_encoder.config
    tokens = trained.tokenizer.encode(TEXTS)
    assert torch.equal(tokens, tiny_tokenizer.encode(TEXTS))
    assert trained.tokenizer.context_length == tiny_tokenizer.context_length
    assert torch.equal(trained.model.encode_text(tokens), model.encode_text(tokens))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(trained.model.encode_image(images), model.encode_image(images))
    assert torch.equal(trained.model.scale(), model.scale())


def test_load_dual_encoder__a_scale_stored_above_its_bound_is_set_to_it(
    tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path
) -> None:
    model = tiny_dual_encoder(max_logit_scale=30.0)
    torch.nn.init.constant_(model.logit_scale, 4.0)
    save_dual_encoder(tmp_path / "stored", model, tiny_tokenizer, "# card")
    assert load_dual_encoder(tmp_path / "stored").model.scale().item() == pytest.approx(30)


def test_load_dual_encoder__leaves_the_random_stream(stored: tuple[DualEncoder, Path]) -> None:
    state = torch.get_rng_state()
    load_dual_encoder(stored[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_load_dual_encoder__another_tokenizer(stored: tuple[DualEncoder, Path]) -> None:
    other = train_tokenizer(["completely different words here"] * 3, 300, 12)
    (stored[1] / "tokenizer.json").write_text(other.to_json(), encoding="utf-8")
    with pytest.raises(EncoderFileError, match=r"token_embedding\.weight is \(280, 16\), needed \(2.., 16\)"):
        load_dual_encoder(stored[1])


def test_load_dual_encoder__missing_tokenizer(stored: tuple[DualEncoder, Path]) -> None:
    (stored[1] / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer file .* does not exist"):
        load_dual_encoder(stored[1])


def test_load_dual_encoder__missing_or_damaged_weights(stored: tuple[DualEncoder, Path]) -> None:
    file = stored[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(EncoderFileError, match="is damaged"):
        load_dual_encoder(stored[1])
    file.unlink()
    with pytest.raises(EncoderFileError, match=r"holds no model\.safetensors"):
        load_dual_encoder(stored[1])


def test_load_dual_encoder__a_hand_over_folder_is_not_one(stored: tuple[DualEncoder, Path], tmp_path: Path) -> None:
    save_image_encoder(tmp_path / "image_encoder", stored[0].image_encoder, "# card")
    with pytest.raises(EncoderFileError, match=r"image_encoder"):
        load_dual_encoder(tmp_path / "image_encoder")
