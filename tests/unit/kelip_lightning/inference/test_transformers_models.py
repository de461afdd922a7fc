"""Models of transformers give the features of the library's own functions, and errors are one sentence."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoProcessor,
    BertConfig,
    BertModel,
    CLIPImageProcessor,
    CLIPModel,
    FlavaConfig,
    FlavaModel,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    XLMRobertaConfig,
)
from transformers import CLIPVisionConfig as VisionConfig

from data_modules.faults import SampleFault
from data_modules.images.decoding import decode_image
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.inference.encoders import load_encoders
from tests.peer_models import TEXT, TOWER, VISION, save_clip, save_siglip, saved, word_tokenizer

CPU = torch.device("cpu")
TOLERANCE: dict[str, float] = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save_clip(tmp_path / "clip")


@pytest.fixture
def siglip(tmp_path: Path) -> Path:
    return save_siglip(tmp_path / "siglip")


@torch.no_grad()
@pytest.mark.parametrize(("kind", "padding"), [("clip", True), ("siglip", "max_length")])
@pytest.mark.parametrize("precision", [None, "bf16-mixed", "bf16-true"])
def test_features_of_the_library(
    kind: str,
    padding: bool | str,
    precision: str | None,
    image_files: dict[str, bytes],
    captions: list[str],
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(kind)
    encoders = load_encoders(f"transformers:{folder}", CPU, precision)
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    model, processor = AutoModel.from_pretrained(folder, dtype=dtype).eval(), AutoProcessor.from_pretrained(folder)
    pixels = processor(images=[decode_image(data) for data in image_files.values()], return_tensors="pt").pixel_values
    tokens = processor(text=captions, padding=padding, truncation=True, max_length=12, return_tensors="pt")
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        output = model(pixel_values=pixels.to(dtype), **tokens)

    images = torch.stack([encoders.preprocess(data) for data in image_files.values()])
    torch.testing.assert_close(images, pixels, **TOLERANCE)
    # The library's forward pass normalises.
    tolerance = TOLERANCE if precision is None else {"rtol": 0.0, "atol": 4e-3}
    for ours, theirs in (
        (encoders.encode_images(images), output.image_embeds),
        (encoders.encode_texts(captions), output.text_embeds),
    ):
        assert ours.dtype == (torch.float32 if precision is None else torch.bfloat16)
        assert (ours.float().norm(dim=-1) - 1).abs().min() > 0.01
        unit = torch.nn.functional.normalize(ours.float(), dim=-1)
        torch.testing.assert_close(unit, theirs.float(), **tolerance)
    assert encoders.logit_scale == pytest.approx(model.logit_scale.float().exp().item())


def test_siglip__texts_do_not_depend_on_the_batch(siglip: Path) -> None:
    encode = load_encoders(f"transformers:{siglip}", CPU).encode_texts
    torch.testing.assert_close(encode(["사과", "red apple " * 9])[:1], encode(["사과"]), **TOLERANCE)


@torch.no_grad()
def test_folder_of_another_family_without_prefix_and_positions_after_padding(tmp_path: Path) -> None:
    vision, text = VisionConfig(**VISION), XLMRobertaConfig(**TEXT | {"pad_token_id": 0, "max_position_embeddings": 9})
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    model = VisionTextDualEncoderModel(config).eval()
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    folder = saved(tmp_path / "koclip", model, image_processor, word_tokenizer(None))
    encoders = load_encoders(str(folder), CPU)
    assert encoders.name == str(folder)
    # Nine positions, the first of which belongs to padding: <s>, six words, </s>.
    ids = torch.tensor([[1, 6, 6, 6, 6, 6, 6, 2]])
    expected = model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output
    torch.testing.assert_close(encoders.encode_texts(["red " * 30]), expected, **TOLERANCE)


def test_temperature_instead_of_logit_scale(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_temperature(model: CLIPModel) -> CLIPModel:
        model._parameters.pop("logit_scale", None)
        model.temperature = torch.nn.Parameter(torch.tensor(0.5))
        return model

    evaluated = CLIPModel.eval
    monkeypatch.setattr(CLIPModel, "eval", lambda model: with_temperature(evaluated(model)))
    assert load_encoders(f"transformers:{clip}", CPU).logit_scale == 2.0


def test_preprocess__pickles_and_refuses_what_is_no_image(clip: Path, image_files: dict[str, bytes]) -> None:
    preprocess = load_encoders(f"transformers:{clip}", CPU).preprocess
    restored = pickle.loads(pickle.dumps(preprocess))
    assert torch.equal(restored(image_files["rgb"]), preprocess(image_files["rgb"]))
    with pytest.raises(SampleFault, match="not a readable image"):
        preprocess(b"no image")


def damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"nothing")


def missing_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["projection_dim"] = 9
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def no_image_processor(folder: Path) -> None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def code_of_its_own(folder: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged_weights, "holds no model that transformers can read"),
        (missing_tensor, r"does not fit CLIPModel: missing visual_projection\.weight"),
        (other_shape, "holds no model that transformers can read"),
        (no_image_processor, "holds no image processor that transformers can read"),
        (no_tokenizer, "holds no tokenizer that transformers can read"),
        (damaged_tokenizer, "holds no tokenizer that transformers can read"),
        (code_of_its_own, "holds no model that transformers can read"),
    ],
)
def test_damaged_folder(damage: Callable[[Path], None], message: str, clip: Path) -> None:
    damage(clip)
    with pytest.raises(EncoderFileError, match=message) as caught:
        load_encoders(f"transformers:{clip}", CPU)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["no/where", "/no/where/at/all", "not a name"])
def test_no_such_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderFileError, match=f"{name} is no folder, and transformers can load no model") as caught:
        load_encoders(f"transformers:{name}", CPU)
    assert len(str(caught.value).splitlines()) == 1


def test_models_of_texts_alone_and_of_images_of_variable_size(tmp_path: Path) -> None:
    saved(tmp_path / "bert", BertModel(BertConfig(**TEXT)))
    with pytest.raises(EncoderFileError, match="is a BertModel, which does not embed both images and texts"):
        load_encoders(str(tmp_path / "bert"), CPU)
    vision = TOWER | {"patch_size": 8, "num_patches": 16}
    model = Siglip2Model(Siglip2Config(vision_config=vision, text_config=TEXT))
    saved(tmp_path / "naflex", model, Siglip2ImageProcessor(patch_size=8, max_num_patches=16), word_tokenizer(12))
    with pytest.raises(EncoderFileError, match=r"gives tensors of shape \(16, 192\) instead of \(3, H, W\)"):
        load_encoders(str(tmp_path / "naflex"), CPU)


def test_model_with_a_feature_per_token(tmp_path: Path, image_files: dict[str, bytes]) -> None:
    config = FlavaConfig(image_config=VISION, text_config=TEXT, multimodal_config=TOWER, projection_dim=8, **TOWER)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    folder = saved(tmp_path / "flava", FlavaModel(config), image_processor, word_tokenizer(12))
    encoders = load_encoders(str(folder), CPU)
    with pytest.raises(EncoderFileError, match=r"gives features of shape \(1, 17, 8\) instead of one per item"):
        encoders.encode_images(encoders.preprocess(image_files["rgb"])[None])
