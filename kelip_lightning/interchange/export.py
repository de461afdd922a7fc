"""From a trained model to a folder that another library opens, with tokenizer, preprocessing and model card."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file

from data_modules.text.tokenizer import BilingualTokenizer, tokenizer_files
from kelip_lightning.errors import ExportError
from kelip_lightning.interchange.formats.folder import ExportFormat, ForeignFolder, describe_foreign_model
from kelip_lightning.interchange.load import load_model_folder
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD
from kelip_lightning.runs.model_card import export_card

PREPROCESSING = "preprocessor_config.json"


def export_model(source: Path, name: ExportFormat, output: Path) -> None:
    """Write the model of a run (or of any other folder that can be read) for another library.

    Args:
        source: A run folder, or a folder with a model.
        name: The layout.
        output: The folder to write; it appears whole or not at all.

    Raises:
        ExportError: The folder holds files already, or the layout cannot express the model, or there is no tokenizer.
        EncoderFileError, DataError: The source is no model, or is damaged.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ExportError(f"--output {output} is there already, and is left as it is; name a new or an empty folder")
    found = load_model_folder(source)
    if found.tokenizer is None:
        raise ExportError(f"{source} holds no tokenizer.json, without which the exported model could not read texts")
    card = export_card(source, name.value)
    write_foreign_folder(output, found.model, found.tokenizer, name, card)


def write_foreign_folder(
    output: Path, model: DualEncoder, tokenizer: BilingualTokenizer, name: ExportFormat, card: str
) -> None:
    """Write a model for another library.

    Args:
        output: A new or an empty folder.
        model: The model.
        tokenizer: Its tokenizer.
        name: The layout.
        card: Text of the README.md.

    Raises:
        ExportError: The layout cannot express the model.
    """
    described = describe_foreign_model(model, tokenizer, name)
    texts = tokenizer_files(tokenizer) | {"README.md": card}
    configs = described.config_files
    if name is not ExportFormat.open_clip:  # open_clip says it in its one configuration file
        configs = configs | {PREPROCESSING: preprocessing(model.image_encoder.config.image_size)}
    texts |= {file: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for file, content in configs.items()}
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        _write_files(partial, described, texts)
        partial.replace(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_files(folder: Path, described: ForeignFolder, texts: Mapping[str, str]) -> None:
    tensors = {key: tensor.cpu().contiguous() for key, tensor in described.weights.items()}
    # transformers refuses a file that does not say which framework wrote it.
    save_file(tensors, folder / described.weights_file, metadata={"format": "pt"})
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")


def preprocessing(image_size: int) -> Mapping[str, object]:
    """What `transformers.CLIPImageProcessor` reads: the preprocessing of every evaluation here."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }
