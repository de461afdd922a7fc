"""Equal settings, equal fingerprint: what counts and what does not."""

import pytest

from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.fingerprint import evaluation_fingerprint, training_fingerprint
from kelip_lightning.config.load import load_experiment
from tests.paths import ROOT

FILE = ROOT / "experiments" / "emoji" / "pretrain.yaml"


def _experiment(*overrides: str) -> PretrainExperiment:
    return load_experiment(FILE, overrides, PretrainExperiment).experiment


def test_training_fingerprint__names_places_and_bookkeeping_do_not_count() -> None:
    same = _experiment(
        "name=other",
        "output_dir=elsewhere",
        "trainer.log_every_n_steps=7",
        "trainer.num_threads=3",
        "trainer.devices=2",
        "checkpoint.keep_last=9",
        "contrastive.data.num_workers=0",
        "trainer.timeout_minutes=5",
        "contrastive.data.sources.plain.read_timeout_seconds=9",
        "contrastive.evaluation.every_n_steps=3",
        "contrastive.evaluation.retrieval.flags=null",
    )
    assert training_fingerprint(same) == training_fingerprint(_experiment())
    assert len(training_fingerprint(same)) == 12


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "mae=null",
        "contrastive.schedule.max_steps=551",
        "contrastive.data.sources.skin_tones.weight=0.3",
        "contrastive.optimizer.name=adamw",
        "contrastive.data.captions={name: 0.5, name_keywords: 0.5, keywords: 0}",
    ],
)
def test_training_fingerprint__everything_else_does(override: str) -> None:
    assert training_fingerprint(_experiment(override)) != training_fingerprint(_experiment())


@pytest.mark.parametrize("name", ["evaluation", "checkpoint", "views", "self_supervision"])
def test_training_fingerprint__a_source_counts_whatever_its_name(name: str) -> None:
    source = f"contrastive.data.sources.{name}={{files: [a.parquet], captions: {{ko: ko}}}}"
    prints = {
        training_fingerprint(load_experiment(FILE, given, PretrainExperiment, on_this_machine=False).experiment)
        for given in ([], [source], [source, f"contrastive.data.sources.{name}.weight=2"])
    }
    assert len(prints) == 3


def test_training_fingerprint__settings_of_a_loss_count_where_it_is_on() -> None:
    wide, weak = "contrastive.self_supervision.projection_width=8", "contrastive.transform.views.flip=0"
    assert training_fingerprint(_experiment(wide, weak)) == training_fingerprint(_experiment())
    byol = ("contrastive.self_supervision.method=byol", "contrastive.transform.views.num_views=2")
    others = [_experiment(), *(_experiment(*byol, *more) for more in ([], [wide], [weak]))]
    assert len({training_fingerprint(one) for one in others}) == 4


def test_evaluation_fingerprint__the_sets_count_and_their_times_do_not() -> None:
    def of(*overrides: str) -> str:
        return evaluation_fingerprint(_experiment(*overrides).contrastive.evaluation)

    assert of("contrastive.evaluation.every_n_steps=3") == of()
    assert of("contrastive.evaluation.retrieval.flags=null") != of()
