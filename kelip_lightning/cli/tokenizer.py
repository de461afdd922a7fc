"""`kelip tokenizer train|inspect`: the joint Korean and English tokenizer by itself."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_modules.text.tokenizer import BilingualTokenizer
    from data_modules.text.tokenizer_report import CountTokens

NAME = "tokenizer"
HELP = "train a Korean and English tokenizer, or see how one serves both languages"
DESCRIPTION = """\
FILES are text files with one caption a line (.gz: compressed), or experiments (.yaml), whose training captions
are taken.

  kelip tokenizer train --vocab-size 98818 --output tokenizer captions_ko.txt captions_en.txt
  kelip tokenizer inspect tokenizer captions_ko.txt captions_en.txt
"""

FILES_HELP = "text files with one caption a line, or experiments"
MAX_INSPECTED = 200_000
"""Captions that `inspect` looks at, the first ones."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`train --vocab-size N --output DIR FILES` and `inspect TOKENIZER FILES [--json]`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    train = actions.add_parser("train", help="train a tokenizer and write it as a Hugging Face folder")
    train.add_argument("--vocab-size", type=int, required=True, metavar="N", help="largest vocabulary (paper: 98818)")
    train.add_argument("--context-length", type=int, default=77, metavar="N", help="longest caption in tokens (77)")
    train.add_argument("--output", required=True, metavar="DIR", help="the folder to write, new or empty")
    train.add_argument("files", nargs="+", metavar="FILES", help=FILES_HELP)
    inspect = actions.add_parser("inspect", help="tokens per syllable and word, and captions cut, per language")
    inspect.add_argument("tokenizer", metavar="TOKENIZER", help="folder with a tokenizer.json, or a run")
    inspect.add_argument("files", nargs="+", metavar="FILES", help=FILES_HELP)
    inspect.add_argument("--json", action="store_true", help="print the metrics as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Train or inspect."""
    return (_train if arguments.action == "train" else _inspect)(arguments)


def _train(arguments: argparse.Namespace) -> int:
    from data_modules.errors import DataError
    from data_modules.text.tokenizer import TokenizerConfig, train_tokenizer
    from data_modules.text.tokenizer_folder import write_tokenizer_folder

    output = Path(arguments.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"--output {output} is there already, and is left as it is; name a new or an empty folder")
    try:
        config = TokenizerConfig(vocab_size=arguments.vocab_size, context_length=arguments.context_length)
    except ValueError as error:
        raise DataError(f"{error}") from error
    tokenizer = train_tokenizer(_captions(arguments.files), config.vocab_size, config.context_length)
    write_tokenizer_folder(output, tokenizer)
    print(f"{output}: {tokenizer.vocab_size:,} tokens")
    if tokenizer.vocab_size < config.vocab_size:
        print(f"The captions gave no more than that; {config.vocab_size:,} were allowed.")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from itertools import islice

    from data_modules.text.tokenizer_report import report_by_language

    tokenizer = _open_tokenizer(Path(arguments.tokenizer))
    captions = list(islice(_captions(arguments.files), MAX_INSPECTED))
    counters: dict[str, CountTokens] = {"this tokenizer": tokenizer.count_tokens}
    if (openai := _openai_counter()) is not None:
        counters["OpenAI CLIP"] = openai
    reports = {name: report_by_language(captions, count, tokenizer.context_length) for name, count in counters.items()}
    if arguments.json:
        metrics = {name: {lang: asdict(one) for lang, one in report.items()} for name, report in reports.items()}
        print(json.dumps({"vocab_size": tokenizer.vocab_size, "reports": metrics}, indent=2))
        return 0
    print(f"{tokenizer.vocab_size:,} tokens, context length {tokenizer.context_length}")
    print(f"{'':<20}{'captions':>10}{'per unit*':>11}{'per word':>10}{'per caption':>13}{'cut':>8}")
    for name, report in reports.items():
        for language, one in report.items():
            print(
                f"{f'{name}, {language}':<20}{one.captions:>10,}{one.tokens_per_unit:>11.2f}{one.fertility:>10.2f}"
                f"{one.tokens_per_caption:>13.1f}{one.share_cut:>8.1%}"
            )
    print("* tokens per Hangul syllable (ko), per word of Latin letters (en)")
    if openai is None:
        print("OpenAI's CLIP tokenizer is not compared: it comes with open_clip_torch, which is not installed.")
    return 0


def _captions(files: list[str]) -> Iterator[str]:
    from data_modules.text.caption_files import read_caption_lines

    for file in files:
        if Path(file).suffix in (".yaml", ".yml"):
            yield from _captions_of_experiment(file)
        else:
            yield from read_caption_lines([Path(file)])


def _captions_of_experiment(file: str) -> Iterator[str]:
    from data_modules.image_text import training_texts
    from data_modules.loading import open_sources
    from data_modules.sources.languages import apply_language_rule
    from kelip_lightning.config.experiment import SCHEMAS, ContrastiveExperiment, PretrainExperiment
    from kelip_lightning.config.load import find_schema, load_experiment
    from kelip_lightning.errors import ConfigError

    experiment = load_experiment(file, [], find_schema(file, SCHEMAS), on_this_machine=False).experiment
    if isinstance(experiment, PretrainExperiment):
        experiment = experiment.contrastive
    if not isinstance(experiment, ContrastiveExperiment):
        raise ConfigError([f"{file} has no captions; give an experiment of contrastive training, or text files"])
    data = experiment.data
    sources = apply_language_rule(open_sources(data.sources), data.sources, data.languages)
    yield from training_texts(sources, experiment.tokenizer.max_training_pairs)


def _open_tokenizer(path: Path) -> "BilingualTokenizer":
    from data_modules.text.tokenizer_folder import read_tokenizer_folder
    from kelip_lightning.interchange.folder import RUN_MODEL, load_model_folder

    if (path / RUN_MODEL).is_dir():
        tokenizer = load_model_folder(path).tokenizer
        assert tokenizer is not None
        return tokenizer
    return read_tokenizer_folder(path)


def _openai_counter() -> "CountTokens | None":
    """OpenAI's CLIP tokenizer, if open_clip_torch is installed, which brings it."""
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError:
        return None
    tokenizer = SimpleTokenizer()
    return lambda texts: [len(tokenizer.encode(text)) for text in texts]
