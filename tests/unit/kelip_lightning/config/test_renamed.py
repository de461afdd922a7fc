"""Old keys of experiment files, and of the configurations that runs have stored."""

from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from data_modules.paths import resolve_path
from kelip_lightning.ablations.config import AblationConfig
from kelip_lightning.config.analysis import ANALYSES
from kelip_lightning.config.experiment import SCHEMAS, PretrainExperiment
from kelip_lightning.config.load import load_experiment, translate
from kelip_lightning.config.renamed import MOVED, RENAMED
from kelip_lightning.config.schema import section_of_mapping, without_none
from kelip_lightning.errors import ConfigError
from tests.paths import FIXTURES

OLD_RUN = FIXTURES / "run_of_e16296c" / "runs" / "finished" / "config.yaml"


def _sections(kind: type) -> Iterator[type]:
    yield kind
    for hint in get_type_hints(kind).values():
        inner, _ = without_none(hint)
        below = inner if is_dataclass(inner) else section_of_mapping(inner)
        if isinstance(below, type):
            yield from _sections(below)


def test_renamed__leads_from_no_key_of_today_to_one() -> None:
    roots = [*SCHEMAS, *ANALYSES.values(), AblationConfig]
    fields = {kind.__name__: set(get_type_hints(kind)) for root in roots for kind in _sections(root)}
    for section, names in RENAMED.items():
        assert not set(names) & fields[section]
        assert set(names.values()) <= fields[section]


def test_moved__leads_to_files_of_the_package() -> None:
    fields = {kind.__name__: set(get_type_hints(kind)) for root in SCHEMAS for kind in _sections(root)}
    for section, keys in MOVED.items():
        assert set(keys) <= fields[section]
        for old, new in (pair for paths in keys.values() for pair in paths.items()):
            assert resolve_path(new).is_file() and not resolve_path(old).exists()


def test_translate__the_path_of_a_file_that_moved() -> None:
    paths = {"a": "package:assets/emoji_subgroups.yaml", "b": "own.yaml"}
    trees = [
        {"contrastive": {"evaluation": {"classification": {k: {"classes_file": v} for k, v in each.items()}}}}
        for each in (paths, paths | {"a": "package:assets/classes/emoji_subgroups.yaml"})
    ]
    assert translate(PretrainExperiment, trees[0]) == trees[1]


def test_load_experiment__a_stored_configuration_of_an_earlier_revision() -> None:
    stored = yaml.safe_load(OLD_RUN.read_text(encoding="utf-8"))["contrastive"]
    views = stored["transform"]["views"]["strong"]
    experiment = load_experiment(OLD_RUN, [], PretrainExperiment, on_this_machine=False, stored=True).experiment
    found = experiment.contrastive
    assert found.loss.max_logits_per_pair == stored["loss"]["tile_size"]
    assert found.transform.views.strong.grayscale == views["grey"] == 0.2
    assert found.transform.views.strong.color_jitter == views["jitter"] == 0.8
    assert found.data.corrupt_samples.max_share == stored["data"]["faults"]["max_share"]


def test_translate__leaves_other_keys_and_values_alone() -> None:
    tree = {"contrastive": {"name": "tile_size", "loss": {"tile_size": 8, "faults": 1}}, "unknown": [{"tile_size": 1}]}
    expected = {
        "contrastive": {"name": "tile_size", "loss": {"max_logits_per_pair": 8, "faults": 1}},
        "unknown": [{"tile_size": 1}],
    }
    assert translate(PretrainExperiment, tree) == expected


@pytest.mark.parametrize(
    ("override", "today"),
    [
        ("loss.tile_size=8", "contrastive.loss.max_logits_per_pair"),
        ("data.faults.max_share=0.5", "contrastive.data.corrupt_samples"),
        ("transform.strong.jitter=0.8", "contrastive.transform.strong.color_jitter"),
    ],
)
def test_load_experiment__an_old_key_is_refused_with_its_new_name(override: str, today: str) -> None:
    with pytest.raises(ConfigError, match=f"is now called {today}: use that name"):
        load_experiment(Path("experiments/emoji/pretrain.yaml"), [override], PretrainExperiment)
