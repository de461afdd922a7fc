"""The hand-over folder of the image encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.encoder_file import LoadReport, check_image_encoder, load_image_encoder, save_image_encoder
from kelip_lightning.models.image_encoder import Activation, ImageEncoder, ImageEncoderConfig, Pooling

TinyConfig = Callable[..., ImageEncoderConfig]


@pytest.fixture
def stored(tiny_image_config: TinyConfig, tmp_path: Path) -> tuple[ImageEncoder, Path]:
    encoder = ImageEncoder(tiny_image_config(pooling=Pooling.mean))
    save_image_encoder(tmp_path / "image_encoder", encoder, "# card")
    return encoder, tmp_path / "image_encoder"


def test_load_image_encoder__round_trip_bit_for_bit(
    stored: tuple[ImageEncoder, Path], tiny_image_config: TinyConfig
) -> None:
    encoder, folder = stored
    torch.manual_seed(99)
    other = ImageEncoder(tiny_image_config(pooling=Pooling.mean))
    report = load_image_encoder(other, folder)
    assert set(report.loaded) == set(encoder.state_dict())
    assert report.fresh == ()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(other.eval()(images), encoder.eval()(images))
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.yaml", "model.safetensors"]


def test_load_image_encoder__regularisation_may_differ(
    stored: tuple[ImageEncoder, Path], tiny_image_config: TinyConfig
) -> None:
    config = tiny_image_config(pooling=Pooling.mean, drop_path_rate=0.2, patch_drop_rate=0.5)
    assert load_image_encoder(ImageEncoder(config), stored[1]).fresh == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 32}, "width is 16 there, 32 here"),
        ({"depth": 1, "num_heads": 4}, "depth is 2 there, 1 here; num_heads is 2 there, 4 here"),
        ({"pooling": Pooling.cls}, "pooling is Pooling.mean there, Pooling.cls here"),
        ({"activation": Activation.gelu}, "activation is Activation.quick_gelu there, Activation.gelu here"),
        ({"pre_norm": False}, "pre_norm is True there, False here"),
        ({"image_size": 64}, "image_size is 32 there, 64 here"),
        ({"patch_size": 16}, "patch_size is 8 there, 16 here"),
        ({"mlp_ratio": 2.0}, "mlp_ratio is 4.0 there, 2.0 here"),
    ],
)
def test_check_image_encoder__another_architecture_names_the_fields(
    stored: tuple[ImageEncoder, Path], tiny_image_config: TinyConfig, options: dict[str, Any], message: str
) -> None:
    config = tiny_image_config(**{"pooling": Pooling.mean} | options)
    with pytest.raises(EncoderFileError) as error:
        check_image_encoder(stored[1], config)
    assert message in str(error.value)
    assert str(error.value).startswith(f"init.image_encoder = {stored[1]} holds another encoder")
    encoder = ImageEncoder(config)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(EncoderFileError):
        load_image_encoder(encoder, stored[1])
    assert all(torch.equal(encoder.state_dict()[name], tensor) for name, tensor in before.items())


def test_load_image_encoder__tensors_that_do_not_fit(stored: tuple[ImageEncoder, Path]) -> None:
    encoder, folder = stored
    weights = load_file(folder / "model.safetensors")
    weights["vit.extra"] = weights.pop("vit.norm.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(EncoderFileError, match=r"missing vit\.norm\.bias; left over vit\.extra"):
        load_image_encoder(encoder, folder)


def test_load_image_encoder__missing_or_damaged(stored: tuple[ImageEncoder, Path], tmp_path: Path) -> None:
    encoder, folder = stored
    with pytest.raises(EncoderFileError, match=r"nowhere holds no config\.yaml"):
        load_image_encoder(encoder, tmp_path / "nowhere")
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(EncoderFileError, match="is damaged"):
        load_image_encoder(encoder, folder)
    (folder / "config.yaml").write_text(yaml.safe_dump({"width": 16}))
    with pytest.raises(EncoderFileError, match=r"depth.* are missing or unknown in ImageEncoderConfig"):
        load_image_encoder(encoder, folder)


def test_load_report__in_words() -> None:
    assert str(LoadReport(loaded=("a", "b"), fresh=())) == "2 tensors loaded, none fresh"
    assert str(LoadReport(loaded=("a",), fresh=("b", "c"))) == "1 tensors loaded, fresh: b, c"
