"""`kelip export RUN --format FORMAT --output DIR`: a trained model in the layout of another library."""

import argparse
import os
from pathlib import Path

from kelip_lightning.cli.verb import verb

FORMATS = ("transformers", "open_clip", "kelip")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run, or another folder with a model")
    parser.add_argument("--format", choices=FORMATS, required=True, help="library that loads it")
    parser.add_argument("--output", metavar="DIR", required=True, help="the folder to write, new or empty")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the stored weights")
    parser.add_argument("--card-notes", metavar="FILE.md", type=Path, help="Markdown to add to the model card")


@verb(_add_arguments)
def export(arguments: argparse.Namespace) -> int:
    """Write a trained model for transformers, open_clip or the official KELIP code.

    Writes safetensors, configuration, tokenizer, preprocessing and a model card that the library loads directly.
    RUN may also be any other folder with a model, for example one in the official KELIP layout.

      kelip export runs/emoji --format open_clip --output exported/emoji
    """
    # Absolute, since the export replaces its folder, which may be the working directory.
    source, output = Path(arguments.run_folder), Path(os.path.abspath(arguments.output))
    if not source.is_dir():
        from kelip_lightning.errors import EncoderFileError

        raise EncoderFileError(f"{source} is not a folder; give the folder of a finished run, for example runs/emoji")
    import torch

    from kelip_lightning.interchange.folder import ExportFormat, export_model

    dtype = getattr(torch, arguments.dtype)
    export_model(source, ExportFormat[arguments.format], output, dtype=dtype, notes=_notes(arguments.card_notes))
    print(f"{output}: {', '.join(sorted(file.name for file in output.iterdir()))}")
    return 0


def _notes(file: Path | None) -> str:
    if file is None:
        return ""
    from kelip_lightning.errors import ExportError

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"--card-notes {file} cannot be read as UTF-8 text ({error}); correct the path") from error
