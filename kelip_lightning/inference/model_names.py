"""What MODEL of the command line may be, checked without importing torch."""

from pathlib import Path

from data_modules.paths import PACKAGE_PREFIX, resolve_path
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import RunFolder

OFFICIAL_REPOSITORY = "navervision/KELIP"
OFFICIAL_NAMES = {"ViT-B/32": "vit-b-32"}
"""Name in the official code -> revision of its Hugging Face repository."""
SHIPPED_MODELS = {"emoji": f"{PACKAGE_PREFIX}assets/models/emoji"}
"""Name -> folder of a model that is installed with this package. A folder of that name takes precedence."""

MODEL_FORMS = (
    "a run folder, an exported or official folder, emoji (the small model that ships), ViT-B/32, a repository of the "
    "Hugging Face Hub, open_clip:NAME:PRETRAINED, transformers:FOLDER"
)


def check_model_name(name: str) -> None:
    """Refuse a run without a finished model, and a folder that does not exist.

    Names that may be those of a Hugging Face repository or of another library pass; loading them tells.

    Raises:
        RunFolderError: There is no such folder, or it is an unfinished run, or a shipped model is not installed.
    """
    if name in SHIPPED_MODELS and not Path(name).exists() and not resolve_path(SHIPPED_MODELS[name]).is_dir():
        raise RunFolderError(f"the model {name} is not part of this installation; make shipped-model writes it")
    if name in SHIPPED_MODELS or name in OFFICIAL_NAMES or name.startswith(PACKAGE_PREFIX) or ":" in name:
        return
    path = Path(name).expanduser()
    run = RunFolder(path)
    if path.is_dir() and not (run.config.is_file() and run.stages()):
        return
    is_repository = len(Path(name).parts) == 2 and not path.exists() and not path.parent.is_dir()
    if not is_repository:
        RunFolder.open(path)
