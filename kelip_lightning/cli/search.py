"""`kelip search MODEL DATA`: a page in the browser that searches pictures in Korean and English."""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.embed import add_embedding_arguments, data_choice, print_embedded
from kelip_lightning.cli.verb import verb
from kelip_lightning.distributed.accelerators import choose_device
from kelip_lightning.errors import ConfigError
from kelip_lightning.inference.model_names import check_model_name

if TYPE_CHECKING:
    from kelip_lightning.search.collection import CaptionChoice
    from kelip_lightning.search.engine import SearchEngine

LANGUAGES = ("ko", "en")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_embedding_arguments(parser)
    parser.add_argument("--captions", metavar="FILE", help="table with captions of the pictures, joined by their key")
    parser.add_argument(
        "--caption-columns",
        metavar="LANGUAGE=COLUMN",
        nargs="+",
        type=_language_column,
        default=[],
        help="columns of the captions (default: ko and en), of --captions or else of the table of pictures",
    )
    parser.add_argument(
        "--caption-key", metavar="COLUMN", default="key", help="column of keys or file names in --captions"
    )
    parser.add_argument(
        "--index", metavar="FILE.parquet", type=Path, help="where embeddings are kept (default: a cache)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=_port, help="default: the first free one from 7860 on")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    parser.add_argument("--time", action="store_true", help="print the time of a search instead of opening a page")


def _language_column(text: str) -> tuple[str, str]:
    language, equals, column = text.partition("=")
    if language not in LANGUAGES or not equals or not column:
        raise argparse.ArgumentTypeError(f"{text} must be ko=COLUMN or en=COLUMN")
    return language, column


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 1 to 65535")
    return int(text)


@verb(_add_arguments)
def search(arguments: argparse.Namespace) -> int:
    """Search pictures by words, pictures and analogies, on a page in the browser.

    Type Korean or English and see the pictures; drop a picture and see captions in both languages; compare the results
    of two words; search for picture − word + word. Embeddings are kept, and only new and changed pictures are embedded.
    The page needs no network, and is served to this machine alone.

      kelip search emoji experiments/emoji/contrastive.yaml --set unseen_design
      kelip search runs/mine photos/ --captions captions.csv --caption-columns ko=caption_ko en=caption_en
      kelip search runs/mine photos/ --time
    """
    check_model_name(arguments.model)
    captions = _caption_choice(arguments)
    if not arguments.time:
        require_gradio()
    device = choose_device(arguments.device)
    from kelip_lightning.cli.progress import item_progress
    from kelip_lightning.inference.embed_data import EmbedSettings
    from kelip_lightning.inference.embedding_file import check_writable
    from kelip_lightning.inference.encoders import load_encoders
    from kelip_lightning.search.collection import default_index, index_collection, open_pictures
    from kelip_lightning.search.engine import SearchEngine

    index: Path = arguments.index or default_index(arguments.model, arguments.data, arguments.set_name)
    check_writable(index)
    pictures = open_pictures(data_choice(arguments), captions)
    encoders = load_encoders(arguments.model, device, arguments.precision)
    settings = EmbedSettings(batch_size=arguments.batch_size, max_broken_share=arguments.max_broken)
    collection, report = index_collection(pictures, encoders, index, settings, item_progress)
    print_embedded("images", report)
    print(f"index: {index}")
    engine = SearchEngine(encoders=encoders, collection=collection)
    return _print_times(engine) if arguments.time else _serve(engine, arguments)


def _caption_choice(arguments: argparse.Namespace) -> "CaptionChoice | None":
    if arguments.captions is None and not arguments.caption_columns:
        return None
    from kelip_lightning.search.collection import CaptionChoice

    return CaptionChoice(file=arguments.captions, columns=dict(arguments.caption_columns), key=arguments.caption_key)


def require_gradio() -> None:
    """Refuse to start without gradio.

    Raises:
        ConfigError: It is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError(["the page needs gradio, which is not installed; run: pip install 'kelip-lightning[demo]'"])


def _print_times(engine: "SearchEngine") -> int:
    from kelip_lightning.search.engine import time_searches

    for one in time_searches(engine):
        print(f"{one.pictures:,} pictures: median {one.median:.1f} ms, slowest of 50 {one.slowest:.1f} ms")
    return 0


def _serve(engine: "SearchEngine", arguments: argparse.Namespace) -> int:
    from kelip_lightning.search.page import LOCAL_HOSTS, build_app
    from kelip_lightning.search.serving import bind, open_browser, serve

    bound = bind(arguments.host, arguments.port)
    if arguments.host not in LOCAL_HOSTS:
        print(f"kelip: {arguments.host} is reachable from other machines, without a password", file=sys.stderr)

    def opened(address: str) -> None:
        print(f"{address} (Ctrl-C ends it)", flush=True)
        if not arguments.no_browser:
            open_browser(address)

    serve(build_app(engine, arguments.host), bound, opened)
    return 0
