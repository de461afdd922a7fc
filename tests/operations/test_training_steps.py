"""Training steps of both stages use deterministic operations and synchronise with the device once; without a GPU."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.operations.nondeterministic import is_nondeterministic
from tests.operations.recorder import OperationRecorder
from tests.operations.training import LOG_EVERY, STEPS, record_training

VIEWS = ["transform.views.num_views=2", "self_supervision.projection_width=12", "self_supervision.projection_dim=6"]
DROPOUT = ["image_encoder.dropout_rate=0.1", "image_encoder.drop_path_rate=0.1", "image_encoder.patch_drop_rate=0.5"]
CHUNKS = ["trainer.accumulate=2", "trainer.gradient_checkpointing=true", "loss.max_logits_per_pair=3"]
SIGMOID = ["loss.kind=sigmoid", "dual_encoder.initial_logit_bias=-10", "dual_encoder.initial_temperature=0.1"]
TIMM = [
    "image_encoder.timm_name=test_vit3", "image_encoder.image_size=32", "image_encoder.patch_size=16",
    "image_encoder.width=96", "image_encoder.depth=9", "image_encoder.num_heads=3", "image_encoder.mlp_ratio=2.0",
    "image_encoder.activation=gelu", "image_encoder.pre_norm=false", "image_encoder.pooling=mean",
    "transform.image_size=32", "transform.local_size=16",
]  # fmt: skip
OFFICIAL = ["masked_autoencoder.variant=official", "masked_autoencoder.norm_pix_loss=false"]
VARIANTS: dict[str, tuple[str, list[str], int]] = {
    "mae": ("mae", [], 1),
    "mae on two processes, in chunks": ("mae", ["trainer.accumulate=2", "trainer.gradient_checkpointing=true"], 2),
    "mae official, muon": ("mae", [*OFFICIAL, "optimizer.name=muon"], 1),
    "contrastive": ("contrastive", [], 1),
    "contrastive on two processes, official positions, dropout": (
        "contrastive", [*DROPOUT, "image_encoder.position_resampling=official"], 2,
    ),
    "contrastive in chunks, simclr": ("contrastive", [*CHUNKS, *VIEWS, "self_supervision.method=simclr"], 1),
    "contrastive on two processes, byol, no clipping": (
        "contrastive", [*VIEWS, "self_supervision.method=byol", "optimizer.gradient_clip_norm=null"], 2,
    ),
    "contrastive sigmoid, muon, locked tower": (
        "contrastive", [*SIGMOID, "optimizer.name=muon", "init.lock_text_encoder=true"], 1,
    ),
    "contrastive timm": ("contrastive", TIMM, 1),
    "mae with averaged weights": ("mae", ["trainer.ema_decay=0.9"], 1),
    "contrastive on two processes, averaged weights": ("contrastive", ["trainer.ema_decay=0.9"], 2),
    "contrastive on two processes, tf32x3": ("contrastive", ["loss.matmul_precision=tf32x3"], 2),
}  # fmt: skip
SIZES = {"vocab_size": 300, "pad_token_id": 0, "eos_token_id": 299}
PARTS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT_MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(**SIZES, **PARTS, max_position_embeddings=40)),
    "t5": lambda: T5EncoderModel(T5Config(**SIZES, d_model=16, num_layers=1, num_heads=2, d_ff=32, d_kv=8)),
    "clip": lambda: CLIPTextModel(CLIPTextConfig(**SIZES, **PARTS, max_position_embeddings=40)),
}
POOLINGS = {"xlm-roberta": "end", "t5": "mean", "clip": "first"}
TEXT = ["width=16", "depth=1", "num_heads=2", "mlp_ratio=2.0"]


@pytest.fixture(scope="module", params=[*VARIANTS, *TEXT_MODELS])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperationRecorder]:
    """The operations of three training steps of each variant."""
    folder: Path = tmp_path_factory.mktemp("run")
    stage, overrides, world = VARIANTS.get(request.param, ("contrastive", [], 1))
    if request.param in TEXT_MODELS:
        TEXT_MODELS[request.param]().save_pretrained(folder / "text")
        settings = [*TEXT, f"hf_model={folder / 'text'}", f"pooling={POOLINGS[request.param]}"]
        overrides = [f"text_encoder.{one}" for one in settings]
    with pytest.MonkeyPatch.context() as patch:
        yield record_training(folder, stage, overrides, patch, world)


def test_training_step__uses_deterministic_operations_alone(recorded: OperationRecorder) -> None:
    assert "native_layer_norm_backward" in {one.name for one in recorded.operations}, "the backward pass is recorded"
    wrong = filter(is_nondeterministic, recorded.operations)
    found = Counter(f"{one.name}.{one.overload} at {one.place}" for one in wrong)
    assert not found, "\n".join(found)


def test_training_step__waits_for_the_device_once(recorded: OperationRecorder) -> None:
    """Once per step, for the vote; additionally for metrics only in logged steps."""
    for step in range(1, STEPS - 1):
        waits = [one for one in recorded.waits if one.step == step]
        expected = {"distributed/consensus.py"}
        if (step + 1) % LOG_EVERY == 0:
            # Loss, mixture of the languages, gradient norm.
            expected |= {"distributed/gather.py", "callbacks/data_health.py", "to_item"}
        listed = "\n".join(map(str, waits))
        assert {one.name for one in waits} == {"device_to_host"}, listed
        assert len(waits) == len(expected), listed
        assert all(any(place in one.place for one in waits) for place in expected), listed
