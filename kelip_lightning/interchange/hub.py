"""Publishing an exported folder on the Hugging Face Hub."""

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from kelip_lightning.errors import ExportError


def check_repository_name(name: str) -> None:
    """Raises ExportError unless it is `ORG/NAME` as the Hub takes it, before anything is written."""
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name, flags=re.ASCII):
        raise ExportError(f"--push {name} is not the name of a repository; give ORG/NAME, in letters, digits and . _ -")


def push_folder(folder: Path, name: str, *, private: bool) -> str:
    """Upload a folder as one commit to a model repository, which is created if it is new; returns the commit's address.

    The token is that of `hf auth login` or of HF_TOKEN.

    Raises:
        ExportError: There is no token, or the Hub refuses or cannot be reached; the folder is kept.
    """
    api = HfApi()
    try:
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=f"Model exported by kelip-lightning from {folder.name}"
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ExportError(
            f"{folder} is written, but could not be pushed to {name} ({reason}); log in with `hf auth login` or set "
            f"HF_TOKEN to a token that may write to {name.partition('/')[0]}, then: hf upload {name} {folder}"
        ) from error
    return str(commit.commit_url)
