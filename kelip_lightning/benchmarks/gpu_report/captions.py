"""Captions without padding, in bf16 through torch's kernel for sequences of different lengths, against padded ones."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting
from kelip_lightning.benchmarks.step.batches import random_tokens
from kelip_lightning.benchmarks.step.captions import cc3m_like_lengths
from kelip_lightning.benchmarks.step.peers import entries_of
from kelip_lightning.benchmarks.step.plain_clip import PlainClip
from kelip_lightning.benchmarks.step.setting import ModelName, StepSetting, architecture_of
from kelip_lightning.benchmarks.step.trainer_steps import build_module
from kelip_lightning.interchange.formats.key_map import Tensors, to_theirs
from kelip_lightning.models.attention import varlen_kernel
from kelip_lightning.models.kernels import fast_attention

EXACT_BOUND = 1e-4
"""Largest relative error in float32, where neither side uses the kernel."""
FACTOR, MARGIN = 2.0, 1e-3
"""In bf16 our error against float32 may be this many times the padded one's, and this much more."""
REPEATS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A forward and a backward pass of a text encoder."""

    features: Tensor
    """(B, E)."""
    gradient: Tensor
    """Of all parameters of the text encoder, one after the other."""
    seconds: float
    """Median of the repetitions."""


def captions(setting: PartSetting, findings: Findings) -> None:
    """Features and gradients of CLIP's text encoder, ours without padding and a plain one on padded captions.

    The reference is the plain one in float32; torch's attention is its only kernel.
    """
    model, batch = (ModelName.tiny, 16) if setting.smoke else (ModelName.vit_b32, 512)
    step = StepSetting(model=model, batch=batch, device=setting.device)
    sizes, generator = architecture_of(step), np.random.default_rng(0)
    lengths = cc3m_like_lengths().draw(batch, sizes.context_length, generator)
    tokens = random_tokens(lengths, sizes, generator).to(setting.device)
    ours = build_module(step, 1).model.to(setting.device)
    plain = PlainClip(sizes).to(setting.device)
    plain.load_state_dict(to_theirs(entries_of(step), dict(ours.state_dict())), strict=True)
    findings.note(kernel=varlen_kernel() is not None, tokens=int(lengths.sum()), padded_tokens=tokens.numel())
    findings.require(
        setting.smoke or varlen_kernel() is not None,
        "this torch has no varlen_attn with a window; install 2.11 or newer",
    )

    def encode_ours() -> Tensor:
        return ours.encode_text(tokens, l2norm=False, num_tokens=int(lengths.sum()))

    def encode_plain() -> Tensor:
        return plain.encode_text(tokens)

    def named(gradients: Tensors) -> Tensors:
        return to_theirs(entries_of(step), gradients)

    passes: dict[str, Pass] = {}
    for precision, mixed in (("float32", False), ("bf16", True)):
        passes[f"ours_{precision}"] = _pass(ours, encode_ours, named, mixed=mixed)
        passes[f"padded_{precision}"] = _pass(plain, encode_plain, dict, mixed=mixed)
    _judge(passes, findings)


def _judge(passes: dict[str, Pass], findings: Findings) -> None:
    """Errors against the padded pass in float32, and times."""
    reference = passes.pop("padded_float32")
    errors = {
        kind: {name: relative_error(getattr(one, kind), getattr(reference, kind)) for name, one in passes.items()}
        for kind in ("features", "gradient")
    }
    for kind, of_kind in errors.items():
        findings.note(**{f"{name}_{kind}_error": error for name, error in of_kind.items()})
        exact, bound = of_kind["ours_float32"], FACTOR * of_kind["padded_bf16"] + MARGIN
        findings.require(
            exact <= EXACT_BOUND, f"{kind} in float32: relative error {exact:.1e}, allowed {EXACT_BOUND:.0e}"
        )
        mixed = of_kind["ours_bf16"]
        findings.require(mixed <= bound, f"{kind} in bf16: relative error {mixed:.1e}, allowed {bound:.1e}")
    for name in ("ours_bf16", "padded_bf16"):
        findings.note(**{f"{name}_ms": 1000 * passes[name].seconds})


def _pass(
    network: nn.Module, encode: Callable[[], Tensor], named: Callable[[Tensors], Tensors], *, mixed: bool
) -> Pass:
    """Features, the gradient of their product with fixed random numbers, and the time of both.

    Args:
        network: Whose parameters get gradients.
        encode: Its features of the captions.
        named: Gives gradients the names of OpenAI's CLIP.
        mixed: Whether autocast to bfloat16 is on.
    """
    device = next(network.parameters()).device
    seconds = []
    for _ in range(REPEATS):
        network.zero_grad(set_to_none=True)
        _wait(device)
        start = time.perf_counter()
        with fast_attention(device), torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            features = encode().float()
        direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(device)
        (features * direction).sum().backward()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    gradients = named(
        {name: torch.zeros_like(one) if one.grad is None else one.grad for name, one in network.named_parameters()}
    )
    text = [gradients[name].flatten() for name in sorted(gradients) if _is_of_text(name)]
    return Pass(features=features.detach(), gradient=torch.cat(text), seconds=median(seconds))


def _is_of_text(name: str) -> bool:
    """Whether a tensor of OpenAI's CLIP belongs to the text encoder."""
    return not name.startswith("visual.") and name != "logit_scale"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())
