"""`kelip evaluate MODEL [MODEL ...] [FILE]`: the metrics of trained models."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kelip_lightning.cli.verb import add_device_argument, load_any_experiment, verb
from kelip_lightning.distributed.accelerators import PRECISIONS, choose_device
from kelip_lightning.errors import ConfigError
from kelip_lightning.inference.model_names import MODEL_FORMS
from kelip_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from kelip_lightning.config.evaluation import EvaluationExperiment


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        metavar="MODEL ... [FILE.yaml] [dotted.key=value ...]",
        nargs="+",
        help=f"models ({MODEL_FORMS}; several give one table); an evaluation file "
        "(experiments/evaluation/) or an experiment with evaluation sets; overrides of it",
    )
    parser.set_defaults(overrides=[])
    add_device_argument(parser)
    parser.add_argument(
        "--precision",
        choices=[one for one in PRECISIONS if one != "auto"],
        help="arithmetic of the models; by default that of a run's training, 32 for other models",
    )
    parser.add_argument("--json", action="store_true", help="print metrics, chance levels and protocols as JSON")


@verb(_add_arguments)
def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate trained models in both languages.

    Zero-shot classification, image-text retrieval and cross-lingual caption retrieval on the evaluation sets of
    FILE.yaml, by default on those of the run. Sets whose files are not there are named and left out.

      kelip evaluate runs/emoji
      kelip evaluate runs/emoji experiments/evaluation/paper.yaml evaluation.data_folder=/data/evaluation
      kelip evaluate runs/a runs/b open_clip:ViT-B-32:laion2b_s34b_b79k experiments/evaluation/xm3600.yaml
    """
    words = parse_words([*arguments.words, *arguments.overrides])
    file = words.file or RunFolder.open(Path(words.models[0])).config
    experiment = _load(words, file)
    device = choose_device(arguments.device)
    from kelip_lightning.cli.evaluation_tables import print_evaluations
    from kelip_lightning.inference.evaluate import evaluate_models

    results = evaluate_models(words.models, experiment.evaluation, device, arguments.precision)
    if arguments.json:
        print(json.dumps(_as_json(results), indent=2, ensure_ascii=False))
    else:
        print_evaluations(results, experiment)
    return 0


@dataclass(frozen=True, slots=True)
class Words:
    """The positional words of the command line."""

    models: list[str]
    file: Path | None
    overrides: list[str]


def parse_words(words: list[str]) -> Words:
    """Models, then a file that ends in .yaml or .yml, then overrides.

    Raises:
        ConfigError: There is no model, a word follows the overrides, or a file is given twice.
    """
    files = [place for place, word in enumerate(words) if word.endswith((".yaml", ".yml")) and "=" not in word]
    if len(files) > 1:
        raise ConfigError([f"{words[files[1]]} is a second file; combine files with `include` in one of them"])
    # An override has `=`; the name of a model may have it too, in a folder's path, but none of the words after a file.
    first = files[0] if files else next(
        (place for place, word in enumerate(words) if "=" in word and not Path(word).exists()), len(words)
    )  # fmt: skip
    models, overrides = words[:first], words[first + 1 :] if files else words[first:]
    if not models:
        raise ConfigError([f"no model is given; before the file, name {MODEL_FORMS}"])
    if wrong := [word for word in overrides if "=" not in word]:
        raise ConfigError([f"{wrong[0]} follows the file or an override; models come first, then the file"])
    return Words(models, Path(words[first]) if files else None, overrides)


def _load(words: Words, file: Path) -> "EvaluationExperiment":
    """The evaluation sets that the command line names.

    Raises:
        ConfigError: A file or an override is wrong, or there are no evaluation sets.
    """
    from kelip_lightning.config.evaluation import EvaluationExperiment
    from kelip_lightning.config.experiment import ContrastiveExperiment
    from kelip_lightning.inference.evaluation_file import with_included

    loaded: Any = load_any_experiment(file, words.overrides, on_this_machine=False, stored=words.file is None)
    experiment = getattr(loaded.experiment, "contrastive", loaded.experiment)
    if isinstance(experiment, ContrastiveExperiment):
        experiment = EvaluationExperiment(evaluation=experiment.evaluation)
    if not isinstance(experiment, EvaluationExperiment):
        raise ConfigError([f"{file} has no section evaluation; give an experiment with a contrastive stage"])
    experiment = with_included(experiment, file)
    if not experiment.evaluation.has_sets:
        raise ConfigError([f"{file}: evaluation has no sets; give evaluation.retrieval, captions or classification"])
    return experiment


def _as_json(results: Any) -> dict[str, Any]:
    """Models with metrics and ties, then what they have in common."""
    return {
        "models": {
            name: {"metrics": one.metrics, "tie_rules": one.tie_differences} for name, one in results.models.items()
        },
        "chance": results.chance,
        "notes": results.notes,
        "missing": results.missing,
    }
