"""Korean–English language–image pre-training: MAE pre-training and contrastive training on Lightning.

`build_model(path_or_name)` loads a trained model of this or another library:

    model, preprocess, tokenizer = kelip_lightning.build_model("runs/emoji")

Reference: Ko & Gu 2022, Large-scale Bilingual Language-Image Contrastive Learning (arXiv:2203.14463).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kelip_lightning.inference.build_model import build_model

__all__ = ["build_model"]


def __getattr__(name: str) -> Any:
    # Lazy: `kelip --help` does not import torch.
    if name == "build_model":
        from kelip_lightning.inference.build_model import build_model

        return build_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
