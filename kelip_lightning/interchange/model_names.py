"""Names of models: the folder that a path, an official name or a Hugging Face repository stands for.

Imports a library only when a name is looked up.
"""

from pathlib import Path

from data_modules.paths import PACKAGE_PREFIX, resolve_path
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.interchange.reasons import short_reason

OFFICIAL_REPOSITORY = "navervision/KELIP"
OFFICIAL_NAMES = {"ViT-B/32": "vit-b-32"}
"""Name in the official code -> revision of its Hugging Face repository."""
SHIPPED_MODELS = {"emoji": f"{PACKAGE_PREFIX}assets/models/emoji"}
"""Name -> folder of a model that is installed with this package. A folder of that name takes precedence."""


def resolve_folder(path_or_name: str | Path) -> Path:
    """The folder itself, that of a shipped model, or the local copy of an official model or of a repository.

    Raises:
        EncoderFileError: It is no folder and cannot be downloaded.
    """
    path = Path(path_or_name).expanduser()
    if path.exists() or isinstance(path_or_name, Path):
        return path
    if (shipped := SHIPPED_MODELS.get(path_or_name, path_or_name)).startswith(PACKAGE_PREFIX):
        return resolve_path(shipped)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, revision = path_or_name, None
    if path_or_name in OFFICIAL_NAMES:
        name, revision = OFFICIAL_REPOSITORY, OFFICIAL_NAMES[path_or_name]
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=["*.msgpack", "*.h5", "*.onnx"]))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        names = ", ".join((*SHIPPED_MODELS, *OFFICIAL_NAMES))
        raise EncoderFileError(
            f"{path_or_name} is neither a folder nor a model that could be downloaded from the Hugging Face Hub "
            f"({short_reason(error)}); give a folder, {names}, or a repository"
        ) from error
