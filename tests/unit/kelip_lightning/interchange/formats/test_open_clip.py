"""open_clip in and out, with its own tokenizer class and transform."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer
from kelip_lightning.errors import EncoderFileError, ExportError
from kelip_lightning.inference.build_model import Preprocess
from kelip_lightning.interchange.folder import ExportFormat, load_foreign_model, load_model_folder, write_foreign_folder
from kelip_lightning.models.config import Activation, Pooling
from kelip_lightning.models.dual_encoder import DualEncoder
from tests.paths import ROOT

MovedModel = Callable[..., DualEncoder]
TOLERANCE: dict[str, float] = {"rtol": 0.0, "atol": 2e-5}

# The settings of the emoji experiment are the last: a mean over patches, no LayerNorm before the blocks.
IMAGE_SETTINGS: list[dict[str, Any]] = [
    {"num_heads": 4},
    {"pooling": Pooling.mean, "mlp_ratio": 2.0},
    {"pooling": Pooling.mean, "pre_norm": False, "activation": Activation.gelu},
]
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 9, "vocab_size": 60, "width": 20, "heads": 2, "layers": 3},
}


def _write(folder: Path, model: DualEncoder, tokenizer: BilingualTokenizer) -> Path:
    write_foreign_folder(folder, model, tokenizer, ExportFormat.open_clip, "# card")
    return folder


def _save(folder: Path, model_cfg: dict[str, Any]) -> open_clip.CLIP:
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}), encoding="utf-8")
    model = open_clip.CLIP(**json.loads(json.dumps(model_cfg))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


@torch.no_grad()
@pytest.mark.parametrize("image", IMAGE_SETTINGS, ids=["cls", "mean", "emoji"])
def test_export__the_library_computes_the_same(
    moved_model: MovedModel, exported_tokenizer: BilingualTokenizer, inputs: Any, tmp_path: Path, image: dict[str, Any]
) -> None:
    model = moved_model(image=image, text={"activation": image.get("activation", Activation.quick_gelu)})
    name = f"local-dir:{_write(tmp_path / 'out', model, exported_tokenizer)}"
    theirs, _, transform = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(inputs.captions)
    assert torch.equal(tokens, exported_tokenizer.encode(inputs.captions, context_length=14))
    pictures = [Image.fromarray(np.random.randint(0, 256, (40, side, 3), dtype=np.uint8)) for side in (40, 52, 97)]
    images = torch.stack([Preprocess(32)(picture) for picture in pictures])
    torch.testing.assert_close(torch.stack([transform(picture) for picture in pictures]), images)
    logits, _ = theirs.eval().get_logits(images, tokens)
    image_BE, text_BE = model.encode_image(images), model.encode_text(tokens)
    torch.testing.assert_close(theirs.encode_image(images, normalize=True), image_BE, **TOLERANCE)
    torch.testing.assert_close(theirs.encode_text(tokens, normalize=True), text_BE, **TOLERANCE)
    torch.testing.assert_close(logits, model.scale() * image_BE @ text_BE.T, **TOLERANCE)


def _texts_of_the_corpus() -> list[str]:
    """Every name and keyword of the embedded corpus, once."""
    texts: dict[str, None] = {}
    for file in sorted((ROOT / "data_modules" / "emoji").glob("*.parquet")):
        table = pq.read_table(file, columns=["name_ko", "name_en", "keywords_ko", "keywords_en"])
        for column in table.to_pydict().values():
            for value in column:
                texts.update(dict.fromkeys(value if isinstance(value, list) else [value]))
    return [text for text in texts if text is not None]


def test_export__the_library_tokenizes_every_text_of_the_corpus_alike(moved_model: MovedModel, tmp_path: Path) -> None:
    texts = _texts_of_the_corpus()
    tokenizer = train_tokenizer(texts, 4000, 32)
    theirs = open_clip.get_tokenizer(f"local-dir:{_write(tmp_path / 'out', moved_model(tokenizer), tokenizer)}")
    differing = (theirs(texts, 32) != tokenizer.encode(texts, 32)).any(dim=1)
    assert [text for text, differs in zip(texts, differing.tolist(), strict=True) if differs] == []
    assert sum("’" in text or "“" in text for text in texts) == 47
    assert "o'clock" in tokenizer.decode(tokenizer.encode("seven o’clock")[0].tolist())


@torch.no_grad()
@pytest.mark.parametrize("image", IMAGE_SETTINGS, ids=["cls", "mean", "emoji"])
def test_export__comes_back(
    moved_model: MovedModel, exported_tokenizer: BilingualTokenizer, inputs: Any, tmp_path: Path, image: dict[str, Any]
) -> None:
    model = moved_model(image=image, text={"activation": image.get("activation", Activation.quick_gelu)})
    again = load_foreign_model(_write(tmp_path / "out", model, exported_tokenizer), ExportFormat.open_clip).model
    assert again.image_encoder.config == model.image_encoder.config
    assert again.text_encoder.config == model.text_encoder.config
    torch.testing.assert_close(again.encode_image(inputs.images), model.encode_image(inputs.images), **TOLERANCE)
    tokens = exported_tokenizer.encode(inputs.captions)
    assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))


@torch.no_grad()
@pytest.mark.parametrize("text", [{}, {"pool_type": "eos", "eos_id": 41}], ids=["argmax", "eos"])
@pytest.mark.parametrize("vision", [{}, {"pool_type": "avg"}, {"no_ln_pre": True}], ids=["tok", "avg", "no_ln_pre"])
def test_load__computes_what_the_library_computes(tmp_path: Path, vision: dict[str, Any], text: dict[str, Any]) -> None:
    model_cfg = MODEL_CFG | {"vision_cfg": MODEL_CFG["vision_cfg"] | vision, "text_cfg": MODEL_CFG["text_cfg"] | text}
    theirs = _save(tmp_path, model_cfg)
    ours = load_foreign_model(tmp_path, ExportFormat.open_clip).model
    images, tokens = (
        torch.randn(2, 3, 32, 32),
        torch.tensor([[58, 4, 41, 59, 0, 0, 0, 0, 0], [58, 7, 9, 2, 30, 8, 9, 41, 59]]),
    )
    torch.testing.assert_close(ours.encode_image(images, l2norm=False), theirs.encode_image(images), **TOLERANCE)
    torch.testing.assert_close(ours.encode_text(tokens, l2norm=False), theirs.encode_text(tokens), **TOLERANCE)
    torch.testing.assert_close(ours.scale()[0], theirs.logit_scale.exp())


def test_load__a_folder_for_both_libraries(
    moved_model: MovedModel, exported_tokenizer: BilingualTokenizer, tmp_path: Path
) -> None:
    """As on the Hub, where model.safetensors beside open_clip's files holds the tensors of transformers."""
    model = moved_model()
    folder = _write(tmp_path / "both", model, exported_tokenizer)
    write_foreign_folder(tmp_path / "other", model, exported_tokenizer, ExportFormat.transformers, "# card")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "other" / name).rename(folder / name)
    loaded = load_model_folder(folder).model
    assert torch.equal(loaded.image_projection.weight, model.image_projection.weight)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (None, {"custom_text": True}, "only custom_text = false"),
        (None, {"multimodal_cfg": {}}, "multimodal_cfg cannot be read"),
        ("vision_cfg", {"timm_model_name": "vit_tiny_patch16_224"}, "only timm_model_name = null"),
        ("vision_cfg", {"pool_type": "none"}, "pool_type = 'none' cannot be read"),
        ("vision_cfg", {"pool_type": "avg", "final_ln_after_pool": True}, "only final_ln_after_pool = false"),
        ("vision_cfg", {"qk_norm": True}, "qk_norm cannot be read"),
        ("text_cfg", {"no_causal_mask": True}, "only no_causal_mask = false"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "only hf_model_name = null"),
    ],
)
def test_load__refuses_what_our_model_has_not(
    tmp_path: Path, section: str | None, values: dict[str, Any], message: str
) -> None:
    model_cfg = MODEL_CFG | (values if section is None else {section: MODEL_CFG[section] | values})
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}), encoding="utf-8")
    with pytest.raises(EncoderFileError, match=message):
        load_foreign_model(tmp_path, ExportFormat.open_clip)


@torch.no_grad()
def test_export__the_bias_of_a_sigmoid_loss(
    moved_model: MovedModel, exported_tokenizer: BilingualTokenizer, inputs: Any, tmp_path: Path
) -> None:
    model = moved_model(joint={"initial_logit_bias": -10.0})
    folder = _write(tmp_path / "out", model, exported_tokenizer)
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = exported_tokenizer.encode(inputs.captions, context_length=14)
    logits, _ = theirs.get_logits(inputs.images, tokens)
    cosines = model.encode_image(inputs.images) @ model.encode_text(tokens).T
    assert model.logit_bias is not None
    torch.testing.assert_close(logits, model.scale() * cosines + model.logit_bias, **TOLERANCE)
    again = load_foreign_model(folder, ExportFormat.open_clip).model
    assert again.logit_bias is not None
    assert torch.equal(again.logit_bias, model.logit_bias)
    with pytest.raises(ExportError, match="the layout of transformers has no place for logit_bias of this model"):
        write_foreign_folder(tmp_path / "no", model, exported_tokenizer, ExportFormat.transformers, "# card")
