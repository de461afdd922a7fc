"""Parameter group and layer of every parameter of the documented towers, as explicit tables."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from timm.models.vision_transformer import VisionTransformer
from timm.optim._param_groups import param_groups_layer_decay
from torch import nn
from transformers import BertConfig, CLIPTextConfig, PretrainedConfig, T5Config, XLMRobertaConfig

from kelip_lightning.models.config import (
    Activation,
    ImageEncoderConfig,
    MaskedAutoencoderConfig,
    MaskedAutoencoderVariant,
    Pooling,
    SelfSupervisionConfig,
    SelfSupervisionMethod,
    TextEncoderConfig,
    TextPooling,
)
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder, build_masked_autoencoder
from kelip_lightning.models.self_supervision import build_branch
from kelip_lightning.models.stored_config import config_from_dict, config_to_dict
from kelip_lightning.models.text_encoder import TextEncoder, build_text_encoder
from kelip_lightning.optim.config import OptimizerConfig, OptimizerName
from kelip_lightning.optim.optimizers import parameter_groups
from kelip_lightning.optim.roles import Role, layers_above, roles_of
from tests.paths import ROOT

MODELS = ROOT / "experiments" / "models"
Table = dict[str, set[str]]

MUON, DECAYED, STILL = "Muon, weight decay", "AdamW, weight decay", "AdamW, no decay"

VIT: Table = {
    MUON: {f"blocks.*.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")},
    DECAYED: {"patch_embed.proj.weight"},
    STILL: {
        "cls_token", "pos_embed", "norm.weight", "norm.bias",
        *(f"blocks.*.{name}.bias" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2")),
        *(f"blocks.*.{name}.weight" for name in ("norm1", "norm2")),
    },
}  # fmt: skip
PRE_NORM: Table = {STILL: {"norm_pre.weight", "norm_pre.bias"}}
NO_PRE_NORM: Table = {STILL: {"patch_embed.proj.bias"}}
LAYER_SCALE: Table = {STILL: {"blocks.*.ls1.gamma", "blocks.*.ls2.gamma"}}
REGISTERS: Table = {STILL: {"reg_token"}}

CLIP_PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
CLIP_TEXT: Table = {
    MUON: {f"encoder.layers.*.{name}.weight" for name in CLIP_PARTS},
    STILL: {
        "embeddings.token_embedding.weight", "embeddings.position_embedding.weight",
        "final_layer_norm.weight", "final_layer_norm.bias",
        *(f"encoder.layers.*.{name}.bias" for name in (*CLIP_PARTS, "layer_norm1", "layer_norm2")),
        *(f"encoder.layers.*.{name}.weight" for name in ("layer_norm1", "layer_norm2")),
    },
}  # fmt: skip
BERT_PARTS = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)  # fmt: skip
BERT: Table = {
    MUON: {f"encoder.layer.*.{name}.weight" for name in BERT_PARTS},
    STILL: {
        *(f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")),
        "embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias",
        *(f"encoder.layer.*.{name}.bias" for name in BERT_PARTS),
        *(f"encoder.layer.*.{part}.LayerNorm.{kind}" for part in ("attention.output", "output")
          for kind in ("weight", "bias")),
    },
}  # fmt: skip
T5: Table = {
    MUON: {
        *(f"block.*.layer.*.SelfAttention.{name}.weight" for name in "qkvo"),
        *(f"block.*.layer.*.DenseReluDense.{name}.weight" for name in ("wi", "wo")),
    },
    STILL: {
        "embed_tokens.weight", "block.*.layer.*.SelfAttention.relative_attention_bias.weight",
        "block.*.layer.*.layer_norm.weight", "final_layer_norm.weight",
    },
}  # fmt: skip
HE_DECODER: Table = {
    MUON: {f"decoder_{name}" for name in VIT[MUON]},
    DECAYED: {"decoder_embed.weight", "decoder_pixels.weight"},
    STILL: {
        "mask_token", "decoder_embed.bias", "decoder_pixels.bias", "decoder_norm.weight", "decoder_norm.bias",
        *(f"decoder_{name}" for name in VIT[STILL] if name.startswith("blocks.")),
    },
}  # fmt: skip
OFFICIAL_DECODER: Table = {
    MUON: {
        f"decoder_blocks.layers.*.{name}"
        for name in ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")
    },
    DECAYED: {"projection.weight", "decoder_pixels.weight"},
    STILL: {
        "mask_token", "decoder_positions", "decoder_norm.weight", "decoder_norm.bias", "decoder_pixels.bias",
        *(f"decoder_blocks.layers.*.{name}"
          for name in ("self_attn.in_proj_bias", "self_attn.out_proj.bias", "linear1.bias", "linear2.bias",
                       "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")),
    },
}  # fmt: skip
HEADS: Table = {
    DECAYED: {f"head.{place}.weight" for place in (0, 3, 6)},
    STILL: {f"head.{place}.{kind}" for place in (1, 4) for kind in ("weight", "bias")},
}


def _joined(*tables: tuple[str, Table]) -> Table:
    """Union of tables with prefixes."""
    groups: Table = {MUON: set(), DECAYED: set(), STILL: set()}
    for prefix, table in tables:
        for group, names in table.items():
            groups[group] |= {prefix + name for name in names}
    return groups


def _found(model: nn.Module) -> Table:
    """Result of `parameter_groups` under Muon, with stars for block indices."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: Table = {MUON: set(), DECAYED: set(), STILL: set()}
    for group in parameter_groups(model, OptimizerConfig(name=OptimizerName.muon, weight_decay=0.1)):
        kind = STILL if not group["weight_decay"] else DECAYED if group["use_fallback"] else MUON
        assert kind is not STILL or group["use_fallback"]
        groups[kind] |= {names[id(one)] for one in group["params"]}
    assert sum(map(len, groups.values())) == len(names), "every parameter once"
    return {kind: set(_starred(found)) for kind, found in groups.items()}


def _starred(names: Iterable[str]) -> Iterable[str]:
    return (name if name.startswith("head.") else re.sub(r"\.\d+\.", ".*.", name) for name in names)


def _file(stem: str, **changed: Any) -> Any:
    kind = TextEncoderConfig if stem.startswith(("text", "xlm")) else ImageEncoderConfig
    file = MODELS / f"{stem}.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8")) | changed
    return config_from_dict(kind, config_to_dict(kind()) | values, file)


def _image(config: ImageEncoderConfig) -> nn.Module:
    with torch.device("meta"):
        return ImageEncoder(config)


@pytest.mark.parametrize("stem", sorted(file.stem for file in MODELS.glob("vit_*.yaml")))
def test_groups__our_vision_transformers(stem: str) -> None:
    assert _found(_image(_file(stem, image_size=448))) == _joined(("vit.", VIT), ("vit.", PRE_NORM))


def test_groups__timm_with_layer_scale() -> None:
    expected = _joined(("vit.", VIT), ("vit.", NO_PRE_NORM), ("vit.", LAYER_SCALE))
    assert _found(_image(_file("timm_vit_s16"))) == expected


def test_groups__timm_with_register_tokens() -> None:
    config = ImageEncoderConfig(
        timm_name="vit_betwixt_patch16_reg4_gap_256", image_size=256, patch_size=16, width=640, depth=12, num_heads=10,
        activation=Activation.gelu, pre_norm=False, pooling=Pooling.mean,
    )  # fmt: skip
    expected = _joined(("vit.", VIT), ("vit.", NO_PRE_NORM), ("vit.", LAYER_SCALE), ("vit.", REGISTERS))
    expected[STILL] -= {"vit.cls_token"}
    assert _found(_image(config)) == expected


@pytest.mark.parametrize("stem", sorted(file.stem for file in MODELS.glob("text_*.yaml")))
def test_groups__our_text_encoders(stem: str) -> None:
    with torch.device("meta"):
        model = TextEncoder(_file(stem), vocab_size=300, context_length=8, eot_id=299, pad_id=0)
    assert _found(model) == _joined(("clip.", CLIP_TEXT))


SIZES: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
HUGGING_FACE: dict[str, tuple[PretrainedConfig, Table]] = {
    "bert": (BertConfig(**SIZES), BERT),
    "xlm-roberta": (XLMRobertaConfig(**SIZES), BERT),
    "clip": (CLIPTextConfig(**SIZES), CLIP_TEXT),
    "t5": (T5Config(d_model=16, num_heads=2, num_layers=2, d_ff=32, d_kv=8), T5),
}


@pytest.fixture
def hugging_face(tmp_path: Path) -> Callable[[str], nn.Module]:
    """A small text encoder of a kind, read as experiments/models/xlm_roberta_base.yaml reads XLM-R."""

    def build(kind: str) -> nn.Module:
        HUGGING_FACE[kind][0].save_pretrained(tmp_path)
        config = _file(
            "xlm_roberta_base", hf_model=str(tmp_path), hf_weights=False, width=16, depth=2, num_heads=2, mlp_ratio=2.0
        )
        assert config.pooling is TextPooling.mean
        return build_text_encoder(config, vocab_size=300, context_length=8, eot_id=299, pad_id=0)

    return build


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_groups__hugging_face_text_models(hugging_face: Callable[[str], nn.Module], kind: str) -> None:
    assert _found(hugging_face(kind)) == _joined(("model.", HUGGING_FACE[kind][1]))


@pytest.mark.parametrize(
    ("variant", "decoder"),
    [(MaskedAutoencoderVariant.he, HE_DECODER), (MaskedAutoencoderVariant.official, OFFICIAL_DECODER)],
)
def test_groups__masked_autoencoders(
    tiny_image_config: Callable[..., ImageEncoderConfig], variant: MaskedAutoencoderVariant, decoder: Table
) -> None:
    config = MaskedAutoencoderConfig(
        variant=variant, norm_pix_loss=False, decoder_width=16, decoder_depth=2, decoder_num_heads=2
    )
    model = build_masked_autoencoder(ImageEncoder(tiny_image_config()), config)
    assert _found(model) == _joined(("encoder.vit.", VIT), ("encoder.vit.", PRE_NORM), ("", decoder))


def test_groups__dual_encoder(tiny_dual_encoder: Callable[..., DualEncoder]) -> None:
    towers = ("image_encoder.vit.", VIT), ("image_encoder.vit.", PRE_NORM), ("text_encoder.clip.", CLIP_TEXT)
    joint: Table = {
        DECAYED: {"image_projection.weight", "text_projection.weight"},
        STILL: {"logit_scale", "logit_bias"},
    }
    assert _found(tiny_dual_encoder(initial_logit_bias=-10.0)) == _joined(*towers, ("", joint))


def test_groups__adamw_decays_the_same_parameters(tiny_dual_encoder: Callable[..., DualEncoder]) -> None:
    model = tiny_dual_encoder()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, OptimizerConfig(weight_decay=0.1))
    decayed = {names[id(one)] for group in groups if group["weight_decay"] for one in group["params"]}
    expected = _found(model)
    assert set(_starred(decayed)) == expected[MUON] | expected[DECAYED]


def test_groups__heads_of_a_self_supervised_loss(tiny_image_config: Callable[..., ImageEncoderConfig]) -> None:
    config = SelfSupervisionConfig(method=SelfSupervisionMethod.simclr, projection_width=8, projection_dim=4)
    branch = build_branch(ImageEncoder(tiny_image_config()), config)
    assert branch is not None
    assert _found(branch) == _joined(("", HEADS))


def test_roles__do_not_depend_on_names() -> None:
    """A linear layer called embedding decays, and a table in a block called weight does not."""
    block = nn.ModuleDict({"token_embedding": nn.Linear(4, 4), "proj": nn.Linear(4, 4), "weight": nn.Embedding(3, 4)})
    assert roles_of(nn.ModuleDict({"x": nn.ModuleList([block])})) == {
        "x.0.token_embedding.weight": Role.block_matrix,
        "x.0.token_embedding.bias": Role.vector,
        "x.0.proj.weight": Role.block_matrix,
        "x.0.proj.bias": Role.vector,
        "x.0.weight.weight": Role.embedding,
    }


def test_layers_above__equal_timms_layers() -> None:
    """Timm gives each group decay ** (layers above it); it counts the last norm to the last block, we above it."""
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5)
    groups = param_groups_layer_decay(model, weight_decay=0.0, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    expected = {name: scales[id(p)] for name, p in model.named_parameters() if not name.startswith("norm.")}
    above = layers_above(nn.ModuleDict({"anything": nn.ModuleDict({"vit": model})}))
    assert {name: 0.5 ** above[f"anything.vit.{name}"] for name in expected} == expected


def test_layers_above__each_tower_by_itself(
    tiny_dual_encoder: Callable[..., DualEncoder], tiny_autoencoder: Callable[..., MaskedAutoencoder]
) -> None:
    above = layers_above(tiny_dual_encoder())
    text = "text_encoder.clip."
    assert {above[f"{text}embeddings.{kind}_embedding.weight"] for kind in ("token", "position")} == {3}
    assert [above[f"{text}encoder.layers.{block}.mlp.fc1.bias"] for block in (0, 1)] == [2, 1]
    tops = (f"{text}final_layer_norm.weight", "image_encoder.vit.norm.weight", "image_projection.weight", "logit_scale")
    assert {above[name] for name in tops} == {0}
    above = layers_above(tiny_autoencoder())
    assert above["encoder.vit.blocks.0.mlp.fc1.weight"] == 2
    assert above["encoder.vit.pos_embed"] == above["encoder.vit.patch_embed.proj.weight"] == 3
    assert {count for name, count in above.items() if "decoder" in name or "mask_token" in name} == {0}


@pytest.mark.parametrize(
    ("kind", "before", "blocks", "behind"),
    [
        ("t5", ("embed_tokens",), "block", ("final_layer_norm",)),
        ("bert", ("embeddings.word_embeddings", "embeddings.LayerNorm"), "encoder.layer", ()),
    ],
)
def test_layers_above__hugging_face_text_models(
    hugging_face: Callable[[str], nn.Module],
    kind: str,
    before: tuple[str, ...],
    blocks: str,
    behind: tuple[str, ...],
) -> None:
    above = layers_above(nn.ModuleDict({"text": hugging_face(kind)}))
    for names, expected in ((before, 3), ((f"{blocks}.0",), 2), ((f"{blocks}.1",), 1), (behind, 0)):
        for name in names:
            assert {count for other, count in above.items() if other.startswith(f"text.model.{name}.")} == {expected}
