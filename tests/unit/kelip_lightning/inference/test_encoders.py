"""`load_encoders` for models of ours: values of the official code and of `build_model`, precision, errors."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images.decoding import decode_image
from data_modules.text.tokenizer import BilingualTokenizer, write_tokenizer_folder
from kelip_lightning import build_model
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.inference.encoders import load_encoders
from kelip_lightning.interchange.folder import ExportFormat, export_model
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.kernels import fast_attention
from kelip_lightning.models.model_folder import save_dual_encoder
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD, normalize_images
from tests.paths import FIXTURES

CPU = torch.device("cpu")
OFFICIAL = FIXTURES / "official_kelip_tiny"
STORED_RUN = FIXTURES / "run_of_e16296c" / "runs" / "finished"
EQUAL: dict[str, float] = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the stored run, without its checkpoints."""
    shutil.copytree(STORED_RUN, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    return tmp_path / "run"


def set_precision(run: Path, configured: str, planned: str) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["contrastive"]["trainer"]["precision"] = configured
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    plan = yaml.safe_load((run / "plan.yaml").read_text(encoding="utf-8"))
    plan["stages"]["contrastive"]["precision"] = planned
    (run / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")


def test_official_folder__features_of_the_official_code(tmp_path: Path) -> None:
    expected, folder = load_file(OFFICIAL / "expected.safetensors"), tmp_path / "official"
    shutil.copytree(OFFICIAL, folder)
    # The fixture has no tokenizer: here the word "t7" is the token 7, between start and end.
    names = {0: "[PAD]", 118: "[SOT]", 119: "[EOT]"}
    words = Tokenizer(models.WordLevel({names.get(index, f"t{index}"): index for index in range(120)}, unk_token="t1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    write_tokenizer_folder(folder, BilingualTokenizer(words, 24))
    inner = [[f"t{token}" for token in row if token not in (0, 118, 119)] for row in expected["texts"].tolist()]
    texts = [" ".join(row) for row in inner]
    encoders = load_encoders(str(folder), CPU)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    close = {"rtol": 0.0, "atol": 2e-5}
    images = encoders.encode_images(expected["images"] * std + mean)
    torch.testing.assert_close(images, expected["image_features"], **close)
    torch.testing.assert_close(encoders.encode_texts(texts), expected["text_features"], **close)
    cosines = torch.nn.functional.cosine_similarity(images[:1, None], encoders.encode_texts(texts)[None], dim=-1)
    torch.testing.assert_close(encoders.logit_scale * cosines, expected["logits_per_image"][:1], rtol=0.0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layout", [None, "contrastive/dual_encoder", "kelip", "open_clip", "transformers"])
def test_run_and_exports__equal_build_model(
    layout: str | None,
    run: Path,
    tmp_path: Path,
    tiny_dual_encoder: Callable[..., DualEncoder],
    tiny_tokenizer: BilingualTokenizer,
    image_files: dict[str, bytes],
    captions: list[str],
) -> None:
    folder = run if layout is None else run / layout
    if layout in ExportFormat.__members__:
        wide = {"width": 64, "num_heads": 1}
        save_dual_encoder(tmp_path / "ours", tiny_dual_encoder(image=wide), tiny_tokenizer, "card")
        folder = tmp_path / "exported"
        export_model(tmp_path / "ours", ExportFormat(layout), folder)
    encoders = load_encoders(str(folder), CPU)
    model, preprocess, tokenizer = build_model(folder)
    images = torch.stack([encoders.preprocess(data) for data in image_files.values()])
    assert images.dtype == torch.uint8
    expected = torch.stack([preprocess(decode_image(data)) for data in image_files.values()])
    torch.testing.assert_close(normalize_images(images), expected, **EQUAL)
    torch.testing.assert_close(encoders.encode_images(images), model.encode_image(expected), **EQUAL)
    torch.testing.assert_close(encoders.encode_texts(captions), model.encode_text(tokenizer.encode(captions)), **EQUAL)
    assert encoders.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert (encoders.name, encoders.device) == (str(folder), CPU)


@torch.no_grad()
@pytest.mark.parametrize(
    ("configured", "planned", "given", "computed"),
    [
        ("32", "32-true", None, "32"),
        ("bf16-mixed", "bf16-mixed", None, "bf16-mixed"),
        ("bf16-true", "bf16-true", None, "bf16-true"),
        ("auto", "bf16-mixed", None, "bf16-mixed"),
        ("auto", "32-true", None, "32"),
        ("bf16-mixed", "bf16-mixed", "32", "32"),
        ("32", "32-true", "bf16-true", "bf16-true"),
    ],
)
def test_precision__of_the_training_unless_given(
    configured: str,
    planned: str,
    given: str | None,
    computed: str,
    run: Path,
    image_files: dict[str, bytes],
    captions: list[str],
) -> None:
    set_precision(run, configured, planned)
    encoders = load_encoders(str(run), CPU, given)
    model, preprocess, tokenizer = build_model(run)
    images = torch.stack([preprocess(decode_image(data)) for data in image_files.values()])
    if computed == "bf16-true":
        model, images = model.to(torch.bfloat16), images.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=computed == "bf16-mixed"), fast_attention(CPU):
        expected = model.encode_image(images), model.encode_text(tokenizer.encode(captions))
    found = torch.stack([encoders.preprocess(data) for data in image_files.values()])
    # A surrounding autocast, such as the trainer's, does not change the precision.
    with torch.autocast("cpu", torch.bfloat16, enabled=computed == "32"):
        ours = encoders.encode_images(found), encoders.encode_texts(captions)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, **EQUAL)
    exact = build_model(run)[0].encode_text(tokenizer.encode(captions))
    assert torch.allclose(ours[1].float(), exact, rtol=0.0, atol=1e-6) == (computed == "32")


def test_precision__folders_are_float32_and_unknown_names_are_refused(run: Path, captions: list[str]) -> None:
    set_precision(run, "bf16-true", "bf16-true")
    folder = str(run / "contrastive" / "dual_encoder")
    assert torch.equal(
        load_encoders(folder, CPU).encode_texts(captions), load_encoders(folder, CPU, "32").encode_texts(captions)
    )
    with pytest.raises(ValueError, match="precision = 'fp16' must be one of auto, 32, bf16-mixed, bf16-true"):
        load_encoders(folder, CPU, "fp16")


def test_preprocess__pickles_and_refuses_what_is_no_image(image_files: dict[str, bytes]) -> None:
    preprocess = load_encoders(str(STORED_RUN), CPU).preprocess
    restored = pickle.loads(pickle.dumps(preprocess))
    assert torch.equal(restored(image_files["rgb"]), preprocess(image_files["rgb"]))
    with pytest.raises(SampleFault, match="not a readable image"):
        preprocess(b"no image")


def test_features_have_no_graph(image_files: dict[str, bytes]) -> None:
    encoders = load_encoders(str(STORED_RUN), CPU)
    assert not encoders.encode_images(encoders.preprocess(image_files["rgb"])[None]).requires_grad
    assert not encoders.encode_texts(["사과"]).requires_grad


def unfinished(run: Path) -> None:
    (run / "contrastive" / "dual_encoder" / "model.safetensors").unlink()


def damaged_weights(run: Path) -> None:
    (run / "contrastive" / "dual_encoder" / "model.safetensors").write_bytes(b"nothing")


def damaged_config(run: Path) -> None:
    (run / "config.yaml").write_text("a: [", encoding="utf-8")


def damaged_plan(run: Path) -> None:
    set_precision(run, "auto", "32-true")
    (run / "plan.yaml").write_text("a: [", encoding="utf-8")


def nothing_known(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unfinished, "has no finished model in contrastive/dual_encoder"),
        (damaged_weights, r"model\.safetensors is damaged"),
        (damaged_config, r"config\.yaml is damaged"),
        (damaged_plan, r"plan\.yaml is damaged"),
        (
            nothing_known,
            "holds no model that this suite can read: .* open_clip:NAME:PRETRAINED, .* transformers:FOLDER",
        ),
    ],
)
def test_damaged_run(damage: Callable[[Path], None], message: str, run: Path) -> None:
    damage(run)
    with pytest.raises(EncoderFileError, match=message) as caught:
        load_encoders(str(run), CPU)
    assert len(str(caught.value).splitlines()) == 1


def test_unfinished_run__whatever_the_precision(run: Path) -> None:
    unfinished(run)
    with pytest.raises(EncoderFileError, match="has no finished model in contrastive/dual_encoder"):
        load_encoders(str(run), CPU, "32")


@pytest.mark.parametrize(
    "name", ["no/where", "ViT-B/32", "timm:vit_base", "/no/where", "", "open_clip:", "transformers:"]
)
def test_no_such_model__names_the_forms(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    forms = (
        "open_clip:NAME:PRETRAINED, open_clip:hf-hub:ORG/NAME, open_clip:local-dir:FOLDER, "
        "transformers:FOLDER_OR_REPOSITORY or onnx:FOLDER"
    )
    with pytest.raises(EncoderFileError, match=forms) as caught:
        load_encoders(name, CPU)
    assert len(str(caught.value).splitlines()) == 1


def test_model_that_ours_cannot_represent__names_its_own_library(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "clip", "text_config": {"layer_norm_eps": 0.1}}', encoding="utf-8"
    )
    with pytest.raises(
        EncoderFileError, match=f"layer_norm_eps .*; transformers:{tmp_path} loads it with its own library"
    ):
        load_encoders(str(tmp_path), CPU)


def test_folder_with_another_preprocessing__names_its_own_library(
    tmp_path: Path, tiny_dual_encoder: Callable[..., DualEncoder], tiny_tokenizer: BilingualTokenizer
) -> None:
    save_dual_encoder(tmp_path / "ours", tiny_dual_encoder(), tiny_tokenizer, "card")
    folder = tmp_path / "exported"
    export_model(tmp_path / "ours", ExportFormat.open_clip, folder)
    file = folder / "open_clip_config.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"shortest"', '"squash"'), encoding="utf-8")
    with pytest.raises(
        EncoderFileError, match=f"resize_mode is squash there, shortest here.*; open_clip:local-dir:{folder} loads it"
    ):
        load_encoders(str(folder), CPU)
    assert load_encoders(f"open_clip:local-dir:{folder}", CPU).encode_texts(["사과"]).shape == (1, 8)


def test_official_folder_without_tokenizer__encodes_no_texts() -> None:
    with pytest.raises(DataError, match=r"official_kelip_tiny has no tokenizer\.json"):
        load_encoders(str(OFFICIAL), CPU).encode_texts(["사과"])
