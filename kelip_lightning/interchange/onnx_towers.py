"""The two towers as ONNX graphs, in a folder that Immich's machine-learning service reads.

    config.json                                          text_cfg.context_length, and what evaluation needs
    visual/model.onnx, preprocess_cfg.json               image float32 (B, 3, S, S) -> image_features float32 (B, E)
    textual/model.onnx, tokenizer.json, ..._config.json  text int32 (B, T) -> text_features float32 (B, E)

Features have unit length. T is the context length; B is free.

Reference: immich-app/immich, machine-learning: file names, inputs, `preprocess_cfg` and padding to the context length.

Shapes: B batch, S image size, T context length, E embedding width, D width, H heads, d width of a head.
"""

import copy
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from data_modules.text.tokenizer import BilingualTokenizer, read_tokenizer_folder, tokenizer_files
from kelip_lightning.errors import ExportError
from kelip_lightning.models.blocks import quick_gelu_
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.hugging_face_text import HuggingFaceTextEncoder
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD
from kelip_lightning.models.text_encoder import TextEncoder, TextTower

CONFIG = "config.json"
VISUAL, TEXTUAL = Path("visual"), Path("textual")
MODEL, PREPROCESS = "model.onnx", "preprocess_cfg.json"
OPSET = 18
"""Version of the ONNX operators; onnxruntime runs it since 1.14."""
LEAST_COSINE = 0.9999
"""Between the features of a float32 graph and of torch."""
_LARGEST_PROTOBUF = 2**31 - 2**20
"""Bytes of a model.onnx; the weights of a larger one are in a file beside it."""
_TEXTS = (
    "사과",
    "빨간 사과 한 개가 나무 탁자 위에 놓여 있는 사진",
    "a photo of an apple",
    "A CAT's face, ＦＵＬＬ width & “quotes”",
    "고양이 and 강아지 123 😀",
    "",
    "긴 문장 " * 200,
)
"""Checked after an export: both languages, no text, one that is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The least cosine between the features of the graphs and of torch on the checked inputs."""

    image: float
    text: float


class _ImageTower(nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.encode_image(image)


class _TextTower(nn.Module):
    """The text tower on padded captions: a graph of fixed sequence length has no packing."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.text_encoder, self.projection = model.text_encoder, model.text_projection

    def forward(self, text: Tensor) -> Tensor:
        features_BD = _padded_features(self.text_encoder, text.long())
        return F.normalize(self.projection(features_BD), dim=-1)


def _padded_features(encoder: TextTower, tokens_BT: Tensor) -> Tensor:
    if isinstance(encoder, HuggingFaceTextEncoder):
        features: Tensor = encoder(tokens_BT)
        return features
    assert isinstance(encoder, TextEncoder), type(encoder).__name__
    embeddings, length = encoder.clip.embeddings, tokens_BT.shape[1]
    hidden = embeddings.token_embedding(tokens_BT) + embeddings.position_embedding.weight[:length]
    for layer in encoder.clip.encoder.layers:
        hidden = _padded_layer(layer, hidden)
    ends_B = (tokens_BT == encoder.eot_id).int().argmax(dim=1)
    at_ends_BD = hidden.gather(1, ends_B.view(-1, 1, 1).expand(-1, 1, hidden.shape[2]))[:, 0]
    normalized: Tensor = encoder.clip.final_layer_norm(at_ends_BD)
    return normalized


def _padded_layer(layer: Any, tokens_BTD: Tensor) -> Tensor:
    """A block; causal attention keeps the padding, which follows the end token, out of every token before it."""
    attention, normed = layer.self_attn, layer.layer_norm1(tokens_BTD)
    query, key, value = (
        projection(normed).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    tokens_BTD = tokens_BTD + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    hidden = layer.mlp.fc1(layer.layer_norm2(tokens_BTD))
    activate = layer.mlp.activate
    hidden = hidden * torch.sigmoid(1.702 * hidden) if activate is quick_gelu_ else activate(hidden)
    output: Tensor = tokens_BTD + layer.mlp.fc2(hidden)
    return output


def write_onnx_folder(
    output: Path, model: DualEncoder, tokenizer: BilingualTokenizer, card: str, *, int8: bool
) -> Agreement:
    """Write both towers with tokenizer, preprocessing and model card, atomically, and compare them with torch.

    Args:
        output: New or empty.
        model: float32, on the CPU.
        tokenizer: The model's.
        card: Text of README.md.
        int8: Whether weights of matrix products are int8 per output channel, and activations are quantised as they
            come (onnxruntime's dynamic quantisation): a quarter of the size, at some loss (`kelip evaluate onnx:DIR`).

    Raises:
        ExportError: onnx, onnxscript or onnxruntime is not installed, the tokenizer's file alone gives other ids than
            the tokenizer, or a float32 graph differs from torch.
    """
    _require_libraries()
    model = copy.deepcopy(model).eval()
    if isinstance(model.text_encoder, HuggingFaceTextEncoder):
        model.text_encoder.use_padding()
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}")
    try:
        for folder in (VISUAL, TEXTUAL):
            (partial / folder).mkdir(parents=True)
        _write_texts(partial, model, tokenizer, card, int8=int8)
        size, length = model.image_encoder.config.image_size, tokenizer.context_length
        _write_graph(_ImageTower(model), "image", torch.zeros(2, 3, size, size), partial / VISUAL, int8=int8)
        tokens = torch.full((2, length), tokenizer.eot_id, dtype=torch.int32)
        _write_graph(_TextTower(model), "text", tokens, partial / TEXTUAL, int8=int8)
        _check_tokenizer(partial / TEXTUAL, tokenizer)
        agreement = _agreement(partial, model, tokenizer)
        if not int8 and min(agreement.image, agreement.text) < LEAST_COSINE:
            raise ExportError(
                f"the ONNX graphs differ from the model (cosine {agreement.image:.6f} of images, {agreement.text:.6f} "
                f"of texts, at least {LEAST_COSINE} is needed); try other versions of onnx and onnxruntime"
            )
        partial.replace(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return agreement


def _require_libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"an ONNX export needs {error.name}, which is not installed: pip install 'kelip-lightning[onnx]'"
        ) from error


def _write_texts(folder: Path, model: DualEncoder, tokenizer: BilingualTokenizer, card: str, *, int8: bool) -> None:
    image = model.image_encoder.config
    config = {
        "embed_dim": model.config.embed_dim,
        "vision_cfg": {"image_size": image.image_size, "patch_size": image.patch_size},
        "text_cfg": {"context_length": tokenizer.context_length, "vocab_size": tokenizer.vocab_size},
        "logit_scale": model.scale().item(),
        "logit_bias": None if model.logit_bias is None else model.logit_bias.item(),
        "weights": "int8" if int8 else "float32",
    }
    preprocess = {
        "size": [image.image_size, image.image_size],
        "mode": "RGB",
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    files: dict[Path, str] = {
        Path("README.md"): card,
        Path(CONFIG): _json(config),
        VISUAL / PREPROCESS: _json(preprocess),
        **{TEXTUAL / name: text for name, text in tokenizer_files(tokenizer).items()},
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _write_graph(tower: nn.Module, name: str, example: Tensor, folder: Path, *, int8: bool) -> None:
    """Write `folder/model.onnx`; `example` is an input of two samples."""
    num_bytes = sum(one.numel() * one.element_size() for one in tower.parameters())
    with _quiet(), torch.no_grad(), tempfile.TemporaryDirectory(dir=folder) as temporary:
        file = (Path(temporary) if int8 else folder) / MODEL
        torch.onnx.export(
            tower.eval(),
            (example,),
            str(file),
            input_names=[name],
            output_names=[f"{name}_features"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=num_bytes > _LARGEST_PROTOBUF,
            verbose=False,
        )
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(
                file,
                folder / MODEL,
                op_types_to_quantize=["MatMul", "Gemm", "Gather"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=num_bytes > 4 * _LARGEST_PROTOBUF,
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own progress."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _check_tokenizer(folder: Path, tokenizer: BilingualTokenizer) -> None:
    """A reader of tokenizer.json alone must get the ids of the tokenizer, which may do more before it."""
    read = read_tokenizer_folder(folder)
    for text in _TEXTS:
        if not torch.equal(read.encode(text), tokenizer.encode(text)):
            raise ExportError(
                f"tokenizer.json alone gives other ids than the model's tokenizer for '{text:.40}', so that a reader "
                "of the folder would compute other features; use another tokenizer"
            )


def _agreement(folder: Path, model: DualEncoder, tokenizer: BilingualTokenizer) -> Agreement:
    size = model.image_encoder.config.image_size
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.encode_image(images), model.encode_text(tokenizer.encode(list(_TEXTS)))
    towers = OnnxTowers(folder)
    found = towers.encode_images(images), towers.encode_texts(list(_TEXTS))
    cosines = (F.cosine_similarity(one, other).min().item() for one, other in zip(found, expected, strict=True))
    return Agreement(image=next(cosines), text=next(cosines))


class OnnxTowers:
    """Both towers of an exported folder, run by onnxruntime on the CPU.

    Args:
        folder: As `write_onnx_folder` writes it.

    Raises:
        ImportError: onnxruntime is not installed.
        OSError, ValueError, DataError: A file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        self.image_size: int = config["vision_cfg"]["image_size"]
        self.logit_scale: float = config["logit_scale"]
        self.tokenizer = read_tokenizer_folder(folder / TEXTUAL, config["text_cfg"]["context_length"])
        self._visual, self._textual = (_session(folder / one / MODEL) for one in (VISUAL, TEXTUAL))

    def encode_images(self, images_BCHW: Tensor) -> Tensor:
        """Unit features, float32 (B, E), of standardised images, float32 (B, 3, S, S)."""
        return _run(self._visual, images_BCHW.numpy())

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Unit features, float32 (B, E)."""
        tokens_BT = self.tokenizer.encode(texts, self.tokenizer.context_length)
        return _run(self._textual, tokens_BT.numpy().astype(np.int32))


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _run(session: Any, values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: values})[0])
