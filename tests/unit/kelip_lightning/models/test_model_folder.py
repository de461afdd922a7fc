"""Models as folders: round trips, atomic writes, error messages."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_modules.errors import DataError
from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models import model_folder
from kelip_lightning.models.config import Activation, ImageEncoderConfig, Pooling
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.model_folder import (
    check_tensors,
    load_dual_encoder,
    load_image_encoder,
    read_weights,
    save_dual_encoder,
    save_image_encoder,
    write_folder,
)
from kelip_lightning.models.stored_config import check_image_encoder, read_config

WEIGHTS = {"a": torch.randn(3, 2), "b": torch.arange(4), "c": torch.randn(2, 2).bfloat16()}


def test_write_folder__round_trip_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "weights"
    write_folder(folder, WEIGHTS, {"width": 3, "name": "한글"}, {"README.md": "# 카드\n"})
    found = read_weights(folder)
    assert found.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert read_config(folder) == {"width": 3, "name": "한글"}
    assert (folder / "README.md").read_text(encoding="utf-8") == "# 카드\n"
    assert [path.name for path in folder.parent.iterdir()] == ["weights"], "nothing partial is left"


def test_write_folder__views_and_gradients_are_stored_as_plain_tensors(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    write_folder(tmp_path / "w", {"t": weight.T, "row": weight[1]}, {}, {})
    found = read_weights(tmp_path / "w")
    assert torch.equal(found["t"], weight.T)
    assert torch.equal(found["row"], weight[1])


def test_write_folder__replaces_the_whole_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "w", WEIGHTS, {"a": 1}, {"old.txt": "old"})
    write_folder(tmp_path / "w", {}, {"a": 2}, {})
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["config.yaml", "model.safetensors"]
    assert read_config(tmp_path / "w") == {"a": 2}


def test_write_folder__a_failing_write_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "w"
    write_folder(folder, WEIGHTS, {"a": 1}, {})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_folder, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_folder(folder, {}, {"a": 2}, {})
    assert read_config(folder) == {"a": 1}
    assert torch.equal(read_weights(folder)["a"], WEIGHTS["a"])
    monkeypatch.undo()
    write_folder(folder, WEIGHTS, {"a": 3}, {})
    assert read_config(folder) == {"a": 3}, "what the failed write left behind is in nobody's way"


@pytest.mark.parametrize("failing", [1, 2])
def test_write_folder__an_exchange_that_fails_leaves_a_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    folder = tmp_path / "w"
    write_folder(folder, WEIGHTS, {"a": 1}, {})
    calls: list[None] = []

    def failing_at(move: Callable[..., None]) -> Callable[..., None]:
        def moved(*paths: Any, **options: Any) -> None:
            calls.append(None)
            if len(calls) == failing:
                raise KeyboardInterrupt
            move(*paths, **options)

        return moved

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "rename", failing_at(os.rename))
        patch.setattr(os, "replace", failing_at(os.replace))
        write_folder(folder, WEIGHTS, {"a": 2}, {})
    assert read_config(folder)["a"] in (1, 2)
    assert torch.equal(read_weights(folder)["a"], WEIGHTS["a"])


def test_read__missing_files(tmp_path: Path) -> None:
    with pytest.raises(EncoderFileError, match=r"holds no config\.yaml: give a folder that a finished stage wrote"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(EncoderFileError, match=r"holds no model\.safetensors"):
        read_weights(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_read_weights__damaged(tmp_path: Path, kept: int) -> None:
    write_folder(tmp_path / "w", WEIGHTS, {}, {})
    file = tmp_path / "w" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(EncoderFileError, match=r"model\.safetensors is damaged"):
        read_weights(tmp_path / "w")


def test_check_tensors__names_every_difference() -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(2, 3), "c": torch.zeros(1)}
    found = {"b": torch.zeros(3, 2), "c": torch.ones(1), "d": torch.zeros(1)}
    with pytest.raises(EncoderFileError) as error:
        check_tensors(expected, found, Path("folder"))
    assert str(error.value) == "folder does not fit the model: missing a; left over d; b is (3, 2), needed (2, 3)"
    check_tensors(expected, expected, Path("folder"))


TinyConfig = Callable[..., ImageEncoderConfig]


@pytest.fixture
def stored_encoder(tiny_image_config: TinyConfig, tmp_path: Path) -> tuple[ImageEncoder, Path]:
    encoder = ImageEncoder(tiny_image_config(pooling=Pooling.mean))
    save_image_encoder(tmp_path / "image_encoder", encoder, "# card")
    return encoder, tmp_path / "image_encoder"


def test_load_image_encoder__round_trip_bit_for_bit(
    stored_encoder: tuple[ImageEncoder, Path], tiny_image_config: TinyConfig
) -> None:
    encoder, folder = stored_encoder
    torch.manual_seed(99)
    other = ImageEncoder(tiny_image_config(pooling=Pooling.mean))
    assert load_image_encoder(other, folder) == len(encoder.state_dict())
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(other.eval()(images), encoder.eval()(images))
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.yaml", "model.safetensors"]


def test_load_image_encoder__regularisation_may_differ(
    stored_encoder: tuple[ImageEncoder, Path], tiny_image_config: TinyConfig
) -> None:
    config = tiny_image_config(pooling=Pooling.mean, drop_path_rate=0.2, patch_drop_rate=0.5)
    assert load_image_encoder(ImageEncoder(config), stored_encoder[1]) > 0


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
    stored_encoder: tuple[ImageEncoder, Path], tiny_image_config: TinyConfig, options: dict[str, Any], message: str
) -> None:
    config = tiny_image_config(**{"pooling": Pooling.mean} | options)
    with pytest.raises(EncoderFileError) as error:
        check_image_encoder(stored_encoder[1], config)
    assert message in str(error.value)
    assert str(error.value).startswith(f"init.image_encoder = {stored_encoder[1]} holds another encoder")
    encoder = ImageEncoder(config)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(EncoderFileError):
        load_image_encoder(encoder, stored_encoder[1])
    assert all(torch.equal(encoder.state_dict()[name], tensor) for name, tensor in before.items())


def test_load_image_encoder__tensors_that_do_not_fit(stored_encoder: tuple[ImageEncoder, Path]) -> None:
    encoder, folder = stored_encoder
    weights = load_file(folder / "model.safetensors")
    weights["vit.extra"] = weights.pop("vit.norm.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(EncoderFileError, match=r"missing vit\.norm\.bias; left over vit\.extra"):
        load_image_encoder(encoder, folder)


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


def test_load_dual_encoder__a_model_that_timm_does_not_have(stored: tuple[DualEncoder, Path]) -> None:
    file = stored[1] / "config.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("timm_name: null", "timm_name: vit_of_old"), "utf-8")
    with pytest.raises(EncoderFileError, match=r"dual_encoder: timm_name = vit_of_old is no Vision Transformer"):
        load_dual_encoder(stored[1])


def test_load_dual_encoder__missing_tokenizer(stored: tuple[DualEncoder, Path]) -> None:
    (stored[1] / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer file .* does not exist"):
        load_dual_encoder(stored[1])


def test_load_dual_encoder__an_image_encoder_folder_is_not_one(
    stored: tuple[DualEncoder, Path], tmp_path: Path
) -> None:
    save_image_encoder(tmp_path / "image_encoder", stored[0].image_encoder, "# card")
    with pytest.raises(EncoderFileError, match=r"image_encoder"):
        load_dual_encoder(tmp_path / "image_encoder")
