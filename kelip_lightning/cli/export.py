"""`kelip export RUN --format FORMAT --output DIR`: a trained model in the layout of another library."""

import argparse
import os
from pathlib import Path

from kelip_lightning.cli.verb import verb

ONNX = "onnx"
FORMATS = ("transformers", "open_clip", "kelip", ONNX)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run, or another folder with a model")
    parser.add_argument("--format", choices=FORMATS, required=True, help="library that loads it")
    parser.add_argument("--output", metavar="DIR", required=True, help="the folder to write, new or empty")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the stored weights")
    parser.add_argument("--card-notes", metavar="FILE.md", type=Path, help="Markdown to add to the model card")
    parser.add_argument("--int8", action="store_true", help="int8 weights, for --format onnx")
    parser.add_argument("--push", metavar="ORG/NAME", help="also upload the folder to this Hugging Face repository")
    parser.add_argument("--private", action="store_true", help="make a new repository private, for --push")


@verb(_add_arguments)
def export(arguments: argparse.Namespace) -> int:
    """Write a trained model for transformers, open_clip, the official KELIP code or onnxruntime.

    Writes weights, configuration, tokenizer, preprocessing and a model card that the library loads directly; with
    --format onnx, both towers as ONNX graphs in the folder layout of Immich, compared with the model after writing.
    RUN may also be any other folder with a model, for example one in the official KELIP layout.

      kelip export runs/emoji --format open_clip --output exported/emoji
      kelip export runs/emoji --format onnx --int8 --output exported/emoji-int8
    """
    # Absolute, since the export replaces its folder, which may be the working directory.
    source, output = Path(arguments.run_folder), Path(os.path.abspath(arguments.output))
    _check(arguments, source)
    if arguments.push is not None:
        from kelip_lightning.interchange.hub import check_repository_name

        check_repository_name(arguments.push)
    import torch

    from kelip_lightning.interchange.folder import ExportFormat, export_model, export_onnx

    notes = _notes(arguments.card_notes)

    if arguments.format == ONNX:
        agreement = export_onnx(source, output, int8=arguments.int8, notes=notes)
        print(f"cosine to the model, at least: {agreement.image:.6f} of images, {agreement.text:.6f} of texts")
    else:
        dtype = getattr(torch, arguments.dtype)
        export_model(source, ExportFormat[arguments.format], output, dtype=dtype, notes=notes)
    files = sorted(str(file.relative_to(output)) for file in output.rglob("*") if file.is_file())
    print(f"{output}: {', '.join(files)}")
    if arguments.push is not None:
        from kelip_lightning.interchange.hub import push_folder

        print(push_folder(output, arguments.push, private=arguments.private))
    return 0


def _check(arguments: argparse.Namespace, source: Path) -> None:
    from kelip_lightning.errors import EncoderFileError, ExportError

    if not source.is_dir():
        raise EncoderFileError(f"{source} is not a folder; give the folder of a finished run, for example runs/emoji")
    if arguments.int8 and arguments.format != ONNX:
        raise ExportError(f"--int8 is for --format {ONNX}, and the format is {arguments.format}: remove it")
    if arguments.dtype != "float32" and arguments.format == ONNX:
        raise ExportError(f"--dtype {arguments.dtype} is for the other formats; use --int8 for a smaller one")
    if arguments.private and arguments.push is None:
        raise ExportError("--private is about the repository of --push, and there is none: remove it")


def _notes(file: Path | None) -> str:
    if file is None:
        return ""
    from kelip_lightning.errors import ExportError

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"--card-notes {file} cannot be read as UTF-8 text ({error}); correct the path") from error
