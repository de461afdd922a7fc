"""Fetches the pinned npm packages that the corpus is built from."""

import base64
import hashlib
import json
import logging
import subprocess
import tarfile
from pathlib import Path

PACKAGES = Path(__file__).with_name("packages.json")

_LOG = logging.getLogger(__name__)


class FetchError(RuntimeError):
    """A package could not be fetched, or is not the pinned one."""


def read_packages() -> dict[str, dict[str, str]]:
    """Reads the pins: from package name to ``version`` and ``integrity``."""
    pins: dict[str, dict[str, str]] = json.loads(PACKAGES.read_text(encoding="utf-8"))
    return pins


def _pack(spec: str, folder: Path) -> Path:
    """Downloads one package archive into an empty folder and returns its path."""
    folder.mkdir(parents=True)
    command = ["npm", "pack", spec, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    except FileNotFoundError as error:
        raise FetchError("npm is needed to build the corpus: install Node.js.") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines() or ["npm gave no reason"]
        raise FetchError(f"npm could not fetch {spec}: {reason[-1]}") from error
    archives = list(folder.glob("*.tgz"))
    if len(archives) != 1:
        raise FetchError(f"npm pack {spec} left {len(archives)} archives instead of one.")
    return archives[0]


def check_integrity(archive: Path, expected: str) -> None:
    """Compares an archive with its pinned integrity string.

    Args:
        archive: The downloaded file.
        expected: ``sha512-`` followed by the digest in base 64, as npm writes it.

    Raises:
        FetchError: If the file is another one.
    """
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode("ascii")
    if f"sha512-{digest}" != expected:
        raise FetchError(f"{archive.name} does not have the integrity pinned in packages.json.")


def fetch_packages(folder: Path) -> dict[str, Path]:
    """Fetches, checks and unpacks every pinned package.

    Args:
        folder: Existing folder to work in.

    Returns:
        From package name to the folder that holds the package's files.

    Raises:
        FetchError: If a package cannot be fetched or is not the pinned one.
    """
    unpacked = {}
    for index, (name, pin) in enumerate(read_packages().items()):
        spec = f"{name}@{pin['version']}"
        _LOG.info("fetching %s", spec)
        archive = _pack(spec, folder / f"archive-{index}")
        check_integrity(archive, pin["integrity"])
        target = folder / f"package-{index}"
        with tarfile.open(archive) as content:
            content.extractall(target, filter="data")
        unpacked[name] = target / "package"
        archive.unlink()
    return unpacked
