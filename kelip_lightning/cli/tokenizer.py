"""`kelip tokenizer train|inspect`: the joint Korean and English tokenizer."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.verb import load_any_experiment, verb

if TYPE_CHECKING:
    from data_modules.text.tokenizer import BilingualTokenizer
    from data_modules.text.tokenizer_report import CountTokens
    from kelip_lightning.config.experiment import ContrastiveExperiment

FILES_HELP = "text files with one caption a line, or experiments"
MAX_INSPECTED = 200_000
"""`inspect` reads at most this many captions."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    train = actions.add_parser("train", help="train a tokenizer and write it as a Hugging Face folder")
    train.add_argument("--vocab-size", type=int, required=True, metavar="N", help="largest vocabulary (paper: 98818)")
    train.add_argument("--context-length", type=int, default=77, metavar="N", help="longest caption in tokens (77)")
    train.add_argument("--output", required=True, metavar="DIR", help="the folder to write, new or empty")
    train.add_argument("files", nargs="+", metavar="FILES", help=FILES_HELP)
    inspect = actions.add_parser("inspect", help="print tokens per syllable and word, and truncated captions")
    inspect.add_argument("tokenizer", metavar="TOKENIZER", help="folder with a tokenizer.json, or a run")
    inspect.add_argument("files", nargs="+", metavar="FILES", help=FILES_HELP)
    inspect.add_argument("--json", action="store_true", help="print the metrics as JSON")


@verb(_add_arguments)
def tokenizer(arguments: argparse.Namespace) -> int:
    """Train a joint Korean and English tokenizer, or print its token statistics per language.

    FILES are text files with one caption a line (.gz: compressed), or experiments (.yaml), for their training captions.

      kelip tokenizer train --vocab-size 98818 --output tokenizer captions_ko.txt captions_en.txt
      kelip tokenizer inspect tokenizer captions_ko.txt captions_en.txt
    """
    return (_train if arguments.action == "train" else _inspect)(arguments)


def _train(arguments: argparse.Namespace) -> int:
    from data_modules.errors import DataError
    from data_modules.text.config import TokenizerConfig

    output = Path(arguments.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"--output {output} exists already; give a new or an empty folder")
    try:
        config = TokenizerConfig(vocab_size=arguments.vocab_size, context_length=arguments.context_length)
    except ValueError as error:
        raise DataError(str(error)) from error
    files = _load(arguments.files)
    from data_modules.text.tokenizer import train_tokenizer, write_tokenizer_folder

    tokenizer = train_tokenizer(_captions(files), config.vocab_size, config.context_length)
    write_tokenizer_folder(output, tokenizer)
    print(f"{output}: {tokenizer.vocab_size:,} tokens")
    if tokenizer.vocab_size < config.vocab_size:
        print(f"The captions have no more merges; --vocab-size {config.vocab_size:,} is the upper limit.")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from itertools import islice

    files = _load(arguments.files)
    from data_modules.text.tokenizer_report import report_by_language

    tokenizer = _open_tokenizer(Path(arguments.tokenizer))
    captions = list(islice(_captions(files), MAX_INSPECTED))
    counters: dict[str, CountTokens] = {"this tokenizer": tokenizer.count_tokens}
    if (openai := _openai_counter()) is not None:
        counters["OpenAI CLIP"] = openai
    reports = {name: report_by_language(captions, count, tokenizer.context_length) for name, count in counters.items()}
    if arguments.json:
        metrics = {name: {lang: asdict(one) for lang, one in report.items()} for name, report in reports.items()}
        print(json.dumps({"vocab_size": tokenizer.vocab_size, "reports": metrics}, indent=2))
        return 0
    print(f"{tokenizer.vocab_size:,} tokens, context length {tokenizer.context_length}")
    print(f"{'':<20}{'captions':>10}{'per unit*':>11}{'per word':>10}{'per caption':>13}{'truncated':>11}")
    for name, report in reports.items():
        for language, one in report.items():
            print(
                f"{f'{name}, {language}':<20}{one.captions:>10,}{one.tokens_per_unit:>11.2f}{one.fertility:>10.2f}"
                f"{one.tokens_per_caption:>13.1f}{one.share_cut:>11.1%}"
            )
    print("* tokens per Hangul syllable (ko), per word of Latin letters (en)")
    if openai is None:
        print("OpenAI's CLIP tokenizer is not compared: open_clip_torch is not installed.")
    return 0


def _load(files: list[str]) -> "list[Path | ContrastiveExperiment]":
    """Each text file as its path, and each experiment as its contrastive stage.

    Raises:
        ConfigError: An experiment is wrong or has no contrastive stage; found before torch is imported.
    """
    from kelip_lightning.config.experiment import ContrastiveExperiment
    from kelip_lightning.errors import ConfigError

    loaded: list[Path | ContrastiveExperiment] = []
    for file in files:
        if Path(file).suffix not in (".yaml", ".yml"):
            loaded.append(Path(file))
            continue
        experiment = load_any_experiment(file, [], on_this_machine=False).experiment
        experiment = getattr(experiment, "contrastive", experiment)
        if not isinstance(experiment, ContrastiveExperiment):
            raise ConfigError([f"{file} has no captions; give an experiment with a contrastive stage, or text files"])
        loaded.append(experiment)
    return loaded


def _captions(files: "list[Path | ContrastiveExperiment]") -> Iterator[str]:
    from data_modules.text.cleaning import read_caption_lines

    for one in files:
        yield from read_caption_lines([one]) if isinstance(one, Path) else _captions_of_experiment(one)


def _captions_of_experiment(experiment: "ContrastiveExperiment") -> Iterator[str]:
    from data_modules.image_text import training_texts
    from data_modules.loading import open_sources
    from data_modules.sources.languages import apply_language_rule

    data = experiment.data
    sources = apply_language_rule(open_sources(data.sources), data.sources, data.languages, data.language_overlap)
    yield from training_texts(sources, experiment.tokenizer.max_training_pairs)


def _open_tokenizer(path: Path) -> "BilingualTokenizer":
    from data_modules.text.tokenizer import read_tokenizer_folder
    from kelip_lightning.interchange.folder import load_model_folder
    from kelip_lightning.runs.folder import RunFolder

    if RunFolder(path).dual_encoder.is_dir():
        tokenizer = load_model_folder(path).tokenizer
        assert tokenizer is not None
        return tokenizer
    return read_tokenizer_folder(path)


def _openai_counter() -> "CountTokens | None":
    """OpenAI's CLIP tokenizer from open_clip_torch, if installed."""
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError:
        return None
    tokenizer = SimpleTokenizer()
    return lambda texts: [len(tokenizer.encode(text)) for text in texts]
