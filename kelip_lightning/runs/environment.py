"""The environment of a run: code revision, package versions, hardware."""

import functools
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES: tuple[str, ...] = (
    "kelip-lightning",
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "transformers",
    "datasets",
    "tokenizers",
    "omegaconf",
    "numpy",
    "scipy",
    "pillow",
    "pyarrow",
    "safetensors",
    "tensorboard",
    "deepspeed",
    "open_clip_torch",
)
"""Packages whose versions are recorded, if installed."""

CODE: tuple[Path, ...] = (Path(__file__).parents[1], Path(__file__).parents[2] / "data_modules")
"""The folders of `code_digest`."""
CODE_SUFFIXES = frozenset({".py", ".yaml", ".yml", ".json"})


def describe_environment() -> dict[str, Any]:
    """Plain values, null where unknown; raises nothing."""
    import torch  # here, as commands that train nothing start faster without it

    return {
        "git": describe_revision(),
        "code": code_digest(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "command": sys.argv,
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def describe_revision(folder: Path = Path(__file__).parent) -> dict[str, Any]:
    """Commit of the code and whether tracked files differ from it; nulls outside a clone or without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"revision": commit or None, "dirty": None if commit is None or changes is None else bool(changes)}


@functools.cache
def code_digest(folders: tuple[Path, ...] = CODE) -> str:
    """Twelve hexadecimal digits of the SHA-256 of code and templates, committed or not; needs no git."""
    whole = hashlib.sha256()
    for folder in folders:
        for file in sorted(one for one in folder.rglob("*") if one.suffix in CODE_SUFFIXES):
            content = file.read_bytes()
            whole.update(f"{folder.name}/{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
            whole.update(content)
    return whole.hexdigest()[:12]


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    from importlib import metadata  # here, as every command imports this module, and this one takes a while

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
