"""The hand-over between the stages: a folder with the image encoder's weights and configuration."""

from dataclasses import dataclass, fields
from pathlib import Path

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.image_encoder import ImageEncoder, ImageEncoderConfig
from kelip_lightning.models.weights_folder import (
    check_tensors,
    config_from_dict,
    config_to_dict,
    read_config,
    read_weights,
    write_folder,
)

REGULARISATION = ("drop_path_rate", "dropout_rate", "patch_drop_rate")
"""Fields that shape training, not weights: they may differ between the stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What became of each tensor of a model."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        fresh = f"fresh: {', '.join(self.fresh)}" if self.fresh else "none fresh"
        return f"{len(self.loaded)} tensors loaded, {fresh}"


def save_image_encoder(folder: Path, encoder: ImageEncoder, card: str) -> None:
    """Write the hand-over folder: model.safetensors, config.yaml, README.md (the card)."""
    write_folder(folder, encoder.state_dict(), config_to_dict(encoder.config), {"README.md": card})


def check_image_encoder(folder: Path, config: ImageEncoderConfig) -> None:
    """Raise EncoderFileError unless the folder's encoder has the configured architecture."""
    stored = config_from_dict(ImageEncoderConfig, read_config(folder), folder)
    different = [
        f"{field.name} is {getattr(stored, field.name)} there, {getattr(config, field.name)} here"
        for field in fields(config)
        if field.name not in REGULARISATION and getattr(stored, field.name) != getattr(config, field.name)
    ]
    if different:
        raise EncoderFileError(
            f"init.image_encoder = {folder} holds another encoder ({'; '.join(different)}); "
            "set image_encoder to the stored one, or train MAE pre-training again"
        )


def load_image_encoder(encoder: ImageEncoder, folder: Path) -> LoadReport:
    """Load a hand-over folder into the encoder, strictly.

    Raises:
        EncoderFileError: The folder is incomplete or damaged, or its architecture or tensors differ.
    """
    check_image_encoder(folder, encoder.config)
    weights = read_weights(folder)
    check_tensors(encoder.state_dict(), weights, folder)
    encoder.load_state_dict(weights, strict=True)
    return LoadReport(loaded=tuple(weights), fresh=())
