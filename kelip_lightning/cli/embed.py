"""`kelip embed MODEL DATA --output FILE.parquet`: embeddings of images or texts."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.verb import add_device_argument, positive_count, verb
from kelip_lightning.distributed.accelerators import PRECISIONS, choose_device
from kelip_lightning.inference.model_names import MODEL_FORMS, check_model_name

if TYPE_CHECKING:
    from kelip_lightning.inference.embed_data import EmbedReport
    from kelip_lightning.inference.embed_sources import DataChoice

_NAMED = 3
"""Broken images that the command line names."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_embedding_arguments(parser)
    parser.add_argument(
        "--output", metavar="FILE.parquet", type=Path, required=True, help="the file to write or update"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the embeddings")
    parser.add_argument(
        "--texts", metavar="COLUMN", help="embed the texts of a column, of a YAML file those in ko or en"
    )


def add_embedding_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, DATA, and how images are found and read."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_FORMS)
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder of images, a .txt file with a text per line, a table, tar shards, or a YAML file with a data "
        "source or an evaluation set",
    )
    parser.add_argument("--set", metavar="NAME", dest="set_name", help="the set or source of a YAML file with several")
    parser.add_argument("--image", metavar="COLUMN", help="column of images of a table (default: image)")
    parser.add_argument(
        "--key", metavar="COLUMN", help="column that identifies a row (default: key, if there is one, else its number)"
    )
    parser.add_argument("--batch-size", metavar="N", type=positive_count, default=64, help="items of a forward pass")
    parser.add_argument(
        "--max-broken",
        metavar="SHARE",
        type=_share,
        default=0.1,
        help="most images, as a share of all, that may be unreadable and are left out (default: 0.1)",
    )
    add_device_argument(parser)
    parser.add_argument(
        "--precision",
        choices=[one for one in PRECISIONS if one != "auto"],
        help="arithmetic of the model; by default that of a run's training, 32 for other models",
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number from 0 to 1")
    return value


@verb(_add_arguments)
def embed(arguments: argparse.Namespace) -> int:
    """Write embeddings of images or texts to a parquet file.

    Columns: key, text (of texts) or version (of images), embedding: L2-normalised. The file's metadata names the model.
    A file that is there is updated: only new and changed items are embedded, and rows of removed ones are dropped. An
    interrupted command is continued by the same command. Images that cannot be read are counted and left out.

      kelip embed runs/emoji photos/ --output photos.parquet
      kelip embed emoji names.csv --texts name_ko --key id --output names.parquet --dtype float16
      kelip embed runs/emoji experiments/emoji/contrastive.yaml --set unseen_design --output unseen.parquet
    """
    check_model_name(arguments.model)
    device = choose_device(arguments.device)
    from kelip_lightning.cli.progress import item_progress
    from kelip_lightning.inference.embed_data import EmbedSettings, embed_to_file
    from kelip_lightning.inference.embed_sources import open_items
    from kelip_lightning.inference.embedding_file import check_writable
    from kelip_lightning.inference.encoders import load_encoders

    output: Path = arguments.output
    check_writable(output)
    items = open_items(data_choice(arguments))
    encoders = load_encoders(arguments.model, device, arguments.precision)
    settings = EmbedSettings(
        batch_size=arguments.batch_size, dtype=arguments.dtype, max_broken_share=arguments.max_broken
    )
    try:
        with item_progress(items.kind) as show:
            report = embed_to_file(items, encoders, output, settings, show)
    except KeyboardInterrupt:
        print(f"kelip: interrupted; {output}.parts has what is done, and the same command continues", file=sys.stderr)
        return 130
    print_embedded(items.kind, report)
    print(f"{output}: {report.rows:,} rows")
    return 0


def data_choice(arguments: argparse.Namespace) -> "DataChoice":
    """DATA and its options."""
    from kelip_lightning.inference.embed_sources import DataChoice

    return DataChoice(
        data=arguments.data,
        set_name=arguments.set_name,
        texts=getattr(arguments, "texts", None),
        image=arguments.image,
        key=arguments.key,
    )


def print_embedded(kind: str, report: "EmbedReport") -> None:
    """What was embedded, what was there already, and which images are broken."""
    new = report.total - report.reused - len(report.broken)
    print(f"{report.total:,} {kind}: {new:,} embedded, {report.reused:,} there already")
    if report.broken:
        named = [f"  {key}: {reason}" for key, reason in list(report.broken.items())[:_NAMED]]
        more = len(report.broken) - len(named)
        print(f"{len(report.broken):,} cannot be read and are left out:", *named, sep="\n", file=sys.stderr)
        if more:
            print(f"  and {more:,} more", file=sys.stderr)
