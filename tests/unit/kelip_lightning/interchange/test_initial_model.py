"""A model to begin from: what is read, what is resampled, folded, new or left out, and what is refused."""

import copy
import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch.nn import functional as F

from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer, write_tokenizer_folder
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.interchange.folder import ExportFormat, write_foreign_folder
from kelip_lightning.interchange.initial_model import load_initial_weights, read_initial_model
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import fresh_dual_encoder, save_dual_encoder
from tests.paths import FIXTURES
from tests.peer_models import save_official_kelip

TinyDualEncoder = Callable[..., DualEncoder]
OFFICIAL = FIXTURES / "official_kelip_tiny"


@pytest.fixture
def model(tiny_dual_encoder: TinyDualEncoder) -> DualEncoder:
    model = tiny_dual_encoder(max_logit_scale=50.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def folder(model: DualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path) -> Path:
    save_dual_encoder(tmp_path / "model", model, tiny_tokenizer, "# card")
    return tmp_path / "model"


@pytest.fixture
def exported(model: DualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path) -> Path:
    write_foreign_folder(tmp_path / "exported", model, tiny_tokenizer, ExportFormat.open_clip, "# card")
    return tmp_path / "exported"


def _fresh(model: DualEncoder, tokenizer: BilingualTokenizer, image_size: int = 32, **joint: Any) -> DualEncoder:
    image = ImageEncoderConfig(image_size=image_size, patch_size=8, width=16, depth=2, num_heads=2)
    return fresh_dual_encoder(image, model.text_encoder.config, DualEncoderConfig(embed_dim=8, **joint), tokenizer)


def _change(file: Path, *keys: str, **values: Any) -> None:
    tree = json.loads(file.read_text(encoding="utf-8"))
    section = tree
    for key in keys:
        section = section[key]
    section |= values
    file.write_text(json.dumps(tree), encoding="utf-8")


def test_read__own_folder_states_its_configuration(folder: Path, model: DualEncoder) -> None:
    initial = read_initial_model(str(folder))
    sections = initial.sections()
    assert initial.layout == "kelip-lightning"
    assert sections["dual_encoder"]["max_logit_scale"] == 50.0
    assert sections["image_encoder"]["activation"] == "quick_gelu"
    assert sections["tokenizer"] == {"vocab_size": initial.tokenizer.vocab_size, "context_length": 12}
    content = (folder / "model.safetensors").read_bytes() + (folder / "tokenizer.json").read_bytes()
    assert initial.sha256 == sha256(content).hexdigest()
    for name, tensor in model.state_dict().items():
        assert torch.equal(initial.model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("logarithm", "temperature", "bound"),
    [
        (2.6592600, 0.0700000, 100.0),
        (4.6051702, 0.01, 100.0),
        (5.0, 0.00673795, 149.0),
        (float(np.log(128.5)), 1 / 128.5, 129.0),
    ],
)
def test_read__another_library_states_its_temperature_and_the_bound_holds_it(
    exported: Path,
    tiny_tokenizer: BilingualTokenizer,
    model: DualEncoder,
    logarithm: float,
    temperature: float,
    bound: float,
) -> None:
    torch.nn.init.constant_(model.logit_scale, logarithm)
    shutil.rmtree(exported)
    write_foreign_folder(exported, model, tiny_tokenizer, ExportFormat.open_clip, "# card")
    joint = read_initial_model(str(exported)).sections()["dual_encoder"]
    assert joint["initial_temperature"] == pytest.approx(temperature, rel=1e-5)
    assert joint["max_logit_scale"] == bound
    DualEncoderConfig(**joint)


def test_load__same_sizes_bit_for_bit(folder: Path, model: DualEncoder, tiny_tokenizer: BilingualTokenizer) -> None:
    new = _fresh(model, tiny_tokenizer)
    report = load_initial_weights(new, read_initial_model(str(folder)))
    assert (report.resampled, report.new, report.left_out) == ({}, (), ())
    assert report.tensors == len(model.state_dict())
    assert report.parameters == sum(one.numel() for one in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(new.state_dict()[name], tensor), name


def test_load__positions_of_other_sizes(folder: Path, model: DualEncoder, tiny_tokenizer: BilingualTokenizer) -> None:
    """Images as timm resamples them; captions keep their first rows (tests of `resample_caption_positions`)."""
    new = _fresh(model, tiny_tokenizer.with_context_length(30), image_size=48)
    report = load_initial_weights(new, read_initial_model(str(folder)))
    positions = model.state_dict()["image_encoder.vit.pos_embed"]
    expected = resample_abs_pos_embed(positions, [6, 6], [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(new.state_dict()["image_encoder.vit.pos_embed"], expected, rtol=0, atol=1e-6)
    own = model.text_encoder.clip.embeddings.position_embedding.weight
    table = new.text_encoder.clip.embeddings.position_embedding.weight
    assert torch.equal(table[:11], own[:11])
    assert torch.equal(table[11:], own[11:].expand(19, -1)), "the only row left to stretch"
    assert set(report.resampled.values()) == {"4 x 4 -> 6 x 6", "12 -> 30"}


def test_load__official_positions_are_resampled_as_the_official_code_does(tmp_path: Path) -> None:
    save_official_kelip(tmp_path / "official")
    initial = read_initial_model(str(tmp_path / "official"))
    image = copy.copy(initial.model.image_encoder.config)
    stored = image.image_size // image.patch_size
    image.image_size += image.patch_size
    new = fresh_dual_encoder(image, initial.model.text_encoder.config, initial.model.config, initial.tokenizer)
    load_initial_weights(new, initial)
    grid = initial.model.state_dict()["image_encoder.vit.pos_embed"][:, 1:].view(1, stored, stored, -1)
    factor = (stored + 1 + 0.1) / stored
    expected = F.interpolate(grid.permute(0, 3, 1, 2), scale_factor=(factor, factor), mode="bicubic")
    found = new.state_dict()["image_encoder.vit.pos_embed"][:, 1:]
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-5)


def test_load__bias_of_the_other_loss(folder: Path, model: DualEncoder, tiny_tokenizer: BilingualTokenizer) -> None:
    initial = read_initial_model(str(folder))
    with_bias = _fresh(model, tiny_tokenizer, initial_logit_bias=-7.0)
    report = load_initial_weights(with_bias, initial)
    assert report.new == ("logit_bias",)
    assert report.tensors == len(model.state_dict())
    assert with_bias.logit_bias is not None
    assert with_bias.logit_bias.item() == -7.0
    save_dual_encoder(folder, with_bias, tiny_tokenizer, "# card")
    assert load_initial_weights(_fresh(model, tiny_tokenizer), read_initial_model(str(folder))).left_out == (
        "logit_bias",
    )


def test_load__another_architecture(folder: Path, model: DualEncoder, tiny_tokenizer: BilingualTokenizer) -> None:
    image = ImageEncoderConfig(image_size=32, patch_size=8, width=16, depth=3, num_heads=2)
    other = fresh_dual_encoder(image, model.text_encoder.config, model.config, tiny_tokenizer)
    with pytest.raises(EncoderFileError, match=r"missing image_encoder\.vit\.blocks\.2"):
        load_initial_weights(other, read_initial_model(str(folder)))


@torch.no_grad()
@pytest.mark.parametrize("pre_norm", [True, False])
def test_read__mean_and_deviation_of_its_own_are_folded(
    tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path, pre_norm: bool
) -> None:
    """Features of images standardised as here equal those of the model on images standardised as it wants them."""
    model = tiny_dual_encoder(image={"pre_norm": pre_norm}).eval()
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.5, 1.0]
    write_foreign_folder(tmp_path / "out", model, tiny_tokenizer, ExportFormat.open_clip, "# card")
    _change(tmp_path / "out" / "open_clip_config.json", "preprocess_cfg", mean=mean, std=std)
    initial = read_initial_model(str(tmp_path / "out"))
    assert initial.folded == (tuple(mean), tuple(std))
    pixels = torch.rand(2, 3, 32, 32)
    theirs = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    usual = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    ours = (pixels - torch.tensor(usual[0]).view(3, 1, 1)) / torch.tensor(usual[1]).view(3, 1, 1)
    torch.testing.assert_close(initial.model.encode_image(ours), model.encode_image(theirs), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (("preprocess_cfg",), {"resize_mode": "squash"}, "states another preprocessing .*resize_mode is squash there"),
        (("preprocess_cfg",), {"mean": 0.5}, r"states mean = 0\.5, which must be three numbers"),
        (("model_cfg",), {"custom_text": True}, "only custom_text = false can be read into this suite's model"),
    ],
)
def test_read__refuses_what_this_package_cannot_represent(
    exported: Path, keys: tuple[str, ...], values: dict[str, Any], message: str
) -> None:
    _change(exported / "open_clip_config.json", *keys, **values)
    with pytest.raises(EncoderFileError, match=message):
        read_initial_model(str(exported))


@pytest.mark.parametrize("prefix", ["", "open_clip:local-dir:"])
def test_read__names_that_evaluate_takes(exported: Path, prefix: str) -> None:
    assert read_initial_model(f"{prefix}{exported}").layout == "open_clip"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (" ", "the name of the model is empty"),
        ("open_clip:ViT-B-32:openai", "a model and a tag of open_clip name no folder"),
        ("no/where", "is neither a folder nor a model that could be downloaded"),
    ],
)
def test_read__names_without_a_model(name: str, message: str) -> None:
    with pytest.raises(EncoderFileError, match=message):
        read_initial_model(name)


def test_read__a_run_that_has_not_finished(tmp_path: Path) -> None:
    (tmp_path / "run" / "contrastive").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("name: run\n", encoding="utf-8")
    with pytest.raises(EncoderFileError, match=r"has no finished model .* or write the weights .* kelip consolidate"):
        read_initial_model(str(tmp_path / "run"))


def test_read__the_tokenizer_is_in_the_folder_or_given(tmp_path: Path, tiny_tokenizer: BilingualTokenizer) -> None:
    save_official_kelip(tmp_path / "official")
    file = tmp_path / "elsewhere.json"
    (tmp_path / "official" / "tokenizer.json").rename(file)
    with pytest.raises(EncoderFileError, match=r"has no tokenizer\.json; add .* tokenizer\.file=FILE"):
        read_initial_model(str(tmp_path / "official"))
    found = read_initial_model(str(tmp_path / "official"), str(file))
    assert found.tokenizer.encode("AB").tolist() == found.tokenizer.encode("ab").tolist(), "as the official code does"
    write_tokenizer_folder(tmp_path / "other", tiny_tokenizer)
    with pytest.raises(EncoderFileError, match="give the tokenizer that the model was trained with"):
        read_initial_model(str(tmp_path / "official"), str(tmp_path / "other" / "tokenizer.json"))


def test_read__another_tokenizer_than_the_model_has(folder: Path, tmp_path: Path) -> None:
    write_tokenizer_folder(tmp_path / "other", train_tokenizer(["다른 글"], 262, 12))
    with pytest.raises(EncoderFileError, match=r"tokenizer\.file = .* is not the tokenizer of"):
        read_initial_model(str(folder), str(tmp_path / "other" / "tokenizer.json"))
    assert read_initial_model(str(folder), str(folder / "tokenizer.json")).tokenizer.context_length == 12
