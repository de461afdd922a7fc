"""The official layout: the fixture's outputs, which the official code computed, come out of our model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import EncoderFileError, ExportError
from kelip_lightning.interchange.folder import ExportFormat, load_foreign_model, write_foreign_folder
from kelip_lightning.models.config import Activation, Pooling, PositionResampling
from kelip_lightning.models.dual_encoder import DualEncoder
from tests.paths import FIXTURES

OFFICIAL = FIXTURES / "official_kelip_tiny"
TOLERANCE = {"rtol": 0.0, "atol": 2e-5}

MovedModel = Callable[..., DualEncoder]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "official"
    shutil.copytree(OFFICIAL, folder)
    (folder / "expected.safetensors").unlink()
    return folder


def _load(folder: Path) -> DualEncoder:
    return load_foreign_model(folder, ExportFormat.kelip).model


def _change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")


def _change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    change(weights)
    torch.save(weights, folder / "pytorch_model.bin")


@torch.no_grad()
def test_load__reproduces_what_the_official_code_computes() -> None:
    model, expected = _load(OFFICIAL), load_file(OFFICIAL / "expected.safetensors")
    computed = {
        "image_features": model.encode_image(expected["images"], l2norm=False),
        "image_features_larger": model.encode_image(expected["images_larger"], l2norm=False),
        "text_features": model.encode_text(expected["texts"], l2norm=False),
        "logits_per_image": model.scale()
        * model.encode_image(expected["images"])
        @ model.encode_text(expected["texts"]).T,
    }
    assert set(computed) | {"images", "images_larger", "texts"} == set(expected)
    for name, tensor in computed.items():
        torch.testing.assert_close(tensor, expected[name], **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_load__larger_image_needs_the_official_resampling(copied: Path) -> None:
    """The tolerance would notice another way to resample."""
    expected = load_file(OFFICIAL / "expected.safetensors")
    model = _load(copied)
    model.image_encoder.config.position_resampling = PositionResampling.timm
    with torch.no_grad():
        features = model.encode_image(expected["images_larger"], l2norm=False)
    assert (features - expected["image_features_larger"]).abs().max() > 1e-3


def test_load__is_float32_in_evaluation_mode_without_a_tokenizer(copied: Path) -> None:
    _change_weights(copied, lambda weights: weights.update({key: one.half() for key, one in weights.items()}))
    loaded = load_foreign_model(copied, ExportFormat.kelip)
    assert not loaded.model.training
    assert loaded.tokenizer is None
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_load__logit_scale_above_our_bound_is_kept_as_the_official_code_does(copied: Path) -> None:
    _change_weights(copied, lambda weights: weights["model.logit_scale"].fill_(5.0))
    assert _load(copied).scale().item() == pytest.approx(148.413, rel=1e-5)


def test_load__every_misfit_in_one_error_and_in_their_names(copied: Path) -> None:

    def change(weights: dict[str, Tensor]) -> None:
        del weights["model.ln_final.bias"]
        weights["model.extra"] = torch.zeros(2)
        weights["model.visual.proj"] = torch.zeros(64, 31)

    _change_weights(copied, change)
    with pytest.raises(EncoderFileError) as raised:
        _load(copied)
    for part in (
        "missing model.ln_final.bias",
        "left over model.extra",
        "model.visual.proj is (64, 31), needed (64, 32)",
    ):
        assert part in str(raised.value)


def test_load__vocabulary_and_layers_of_the_configuration_must_be_the_weights(copied: Path) -> None:
    _change_config(copied, vocab_size=121, transformer_layers=3)
    with pytest.raises(EncoderFileError) as raised:
        _load(copied)
    assert "model.token_embedding.weight is (120, 48), needed (121, 48)" in str(raised.value)
    assert "missing model.transformer.resblocks.2.ln_1.bias" in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vision_width": None}, "vision_width = None must be of type int"),
        ({"vision_layers": [3, 4, 6, 3]}, "vision_layers = .* must be of type int"),
        ({"vision_width": 63}, "makes no model"),
        ({"vision_width": 66}, "width = 66 must be a multiple"),
        ({"dropout": 0.1}, "dropout cannot be read"),
    ],
)
def test_load__bad_configuration(copied: Path, values: dict[str, Any], message: str) -> None:
    _change_config(copied, **values)
    with pytest.raises(EncoderFileError, match=message):
        _load(copied)


class _Payload:
    """What an attacker would put into a pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_load__unpickles_nothing_but_tensors(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied)
    torch.save({"model.logit_scale": _Payload()}, copied / "pytorch_model.bin")
    with pytest.raises(EncoderFileError, match="cannot be read as plain tensors"):
        _load(copied)
    assert not (copied / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_load__damaged_weights(copied: Path, content: bytes) -> None:
    (copied / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(EncoderFileError, match=r"pytorch_model\.bin"):
        _load(copied)


def test_load__no_weights(copied: Path) -> None:
    (copied / "pytorch_model.bin").unlink()
    with pytest.raises(EncoderFileError, match="holds no weights"):
        _load(copied)


def test_export__names_and_shapes_of_the_official_folder(
    moved_model: MovedModel, exported_tokenizer: BilingualTokenizer, tmp_path: Path
) -> None:
    write_foreign_folder(tmp_path / "out", moved_model(), exported_tokenizer, ExportFormat.kelip, "# card")
    written = load_file(tmp_path / "out" / "model.safetensors")
    official = torch.load(OFFICIAL / "pytorch_model.bin", weights_only=True)
    one_layer_more = {
        name.replace("resblocks.1", "resblocks.2") for name in official if "model.transformer.resblocks.1" in name
    }
    assert set(written) == set(official) | one_layer_more
    assert {name: tensor.ndim for name, tensor in written.items() if name in official} == {
        name: tensor.ndim for name, tensor in official.items()
    }
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert set(config) == set(json.loads((OFFICIAL / "config.json").read_text(encoding="utf-8")))


def test_export__comes_back_bit_for_bit(
    moved_model: MovedModel, exported_tokenizer: BilingualTokenizer, tmp_path: Path
) -> None:
    model = moved_model()
    write_foreign_folder(tmp_path / "out", model, exported_tokenizer, ExportFormat.kelip, "# card")
    again = load_foreign_model(tmp_path / "out", ExportFormat.kelip)
    assert again.model.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    assert again.tokenizer is not None
    assert torch.equal(again.tokenizer.encode("빨간 사과"), exported_tokenizer.encode("빨간 사과"))


@pytest.mark.parametrize(
    ("name", "sections", "message"),
    [
        ("kelip", {"image": {"pooling": Pooling.mean}}, "pooling must be cls"),
        ("kelip", {"image": {"pre_norm": False}}, "pre_norm must be true"),
        ("kelip", {"image": {"num_heads": 2}}, "num_heads must be width / 64"),
        ("kelip", {"image": {"activation": Activation.gelu}}, "image_encoder.activation must be quick_gelu"),
        ("kelip", {"text": {"activation": Activation.gelu}}, "text_encoder.activation must be quick_gelu"),
        ("kelip", {"text": {"mlp_ratio": 2.0}}, "text_encoder.mlp_ratio must be 4"),
        ("transformers", {"image": {"pooling": Pooling.mean}}, "pooling must be cls"),
        ("transformers", {"image": {"pre_norm": False}}, "pre_norm must be true"),
        ("open_clip", {"image": {"activation": Activation.gelu}}, "must be the same"),
    ],
)
def test_export__refuses_what_the_layout_cannot_express(
    moved_model: MovedModel,
    exported_tokenizer: BilingualTokenizer,
    tmp_path: Path,
    name: str,
    sections: dict[str, dict[str, Any]],
    message: str,
) -> None:
    model = moved_model(**sections)
    with pytest.raises(ExportError, match=message):
        write_foreign_folder(tmp_path / "out", model, exported_tokenizer, ExportFormat[name], "# card")
    assert list(tmp_path.iterdir()) == []
