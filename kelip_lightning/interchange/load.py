"""Any folder with a trained model: a run, a hand-over of this suite, or another library's layout."""

from dataclasses import dataclass
from pathlib import Path

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.interchange.formats.folder import detect_format, load_foreign_model
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.dual_encoder_file import load_dual_encoder
from kelip_lightning.models.weights_folder import CONFIG, WEIGHTS
from kelip_lightning.runs.folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A model and its tokenizer, if there is one."""

    model: DualEncoder
    tokenizer: BilingualTokenizer | None


def load_model_folder(folder: Path) -> FoundModel:
    """The model in a folder of any known layout, in evaluation mode.

    Args:
        folder: A run folder, its `contrastive/dual_encoder`, an exported folder, or one in the layout of the official
            KELIP, of `transformers.CLIPModel` or of open_clip.

    Raises:
        EncoderFileError: The folder is missing or of no known layout, or a tensor is missing, left over or of another
            shape.
        DataError: The tokenizer's files are damaged.
    """
    if not folder.is_dir():
        raise EncoderFileError(f"model folder {folder} does not exist; give a run folder or a folder with a model")
    own = RunFolder(folder).dual_encoder
    ours = own if own.is_dir() else folder
    if (ours / CONFIG).is_file() and (ours / WEIGHTS).is_file():
        trained = load_dual_encoder(ours)
        return FoundModel(model=trained.model, tokenizer=trained.tokenizer)
    layout = detect_format(folder)
    if layout is None:
        raise EncoderFileError(
            f"{folder} holds no model that this suite can read: it is neither a finished run, nor has it an "
            "open_clip_config.json, nor a config.json of a CLIPModel or of the official KELIP"
        )
    foreign = load_foreign_model(folder, layout)
    return FoundModel(model=foreign.model, tokenizer=foreign.tokenizer)
