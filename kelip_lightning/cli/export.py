"""`kelip export RUN --format FORMAT --output DIR`: a trained model for another library."""

import argparse
import os
from pathlib import Path

NAME = "export"
HELP = "write a trained model for transformers, open_clip or the official KELIP code"
DESCRIPTION = """\
A folder with safetensors, configuration, tokenizer, preprocessing and a model card, which the library named
opens by itself. RUN may also be any other folder with a model, for example one in the official KELIP layout.

  kelip export runs/emoji --format open_clip --output exported/emoji
"""

FORMATS = ("transformers", "open_clip", "kelip")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`RUN --format FORMAT --output DIR`."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run, or another folder with a model")
    parser.add_argument("--format", choices=FORMATS, required=True, help="which library shall read it")
    parser.add_argument("--output", metavar="DIR", required=True, help="the folder to write, new or empty")


def run(arguments: argparse.Namespace) -> int:
    """Export and say where."""
    # The export replaces its folder: seen from inside, as `.`, it would be the old one.
    source, output = Path(arguments.run_folder), Path(os.path.abspath(arguments.output))
    if not source.is_dir():
        from kelip_lightning.errors import EncoderFileError

        raise EncoderFileError(f"{source} is no folder; give the folder of a finished run, for example runs/emoji")
    from kelip_lightning.interchange.folder import ExportFormat, export_model

    export_model(source, ExportFormat[arguments.format], output)
    print(f"{output}: {', '.join(sorted(file.name for file in output.iterdir()))}")
    return 0
