"""Analyses of one or several runs together, and of what a run was trained on."""

from collections.abc import Sequence

import torch

from data_modules.benchmarks.analogy_queries import build_analogy_set
from data_modules.benchmarks.galleries import build_image_gallery
from data_modules.config import ImageTextDataConfig
from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from kelip_lightning.analyses.analogy import split_halves
from kelip_lightning.analyses.analogy_runs import RunEmbeddings, findings_over_runs
from kelip_lightning.analyses.analyze import Encoders, analyze_run, encoders_of
from kelip_lightning.analyses.divergence import Profiles, score_profiles
from kelip_lightning.analyses.output import Findings, Item, Outcome
from kelip_lightning.analyses.plots import runs_plots
from kelip_lightning.analyses.trained_words import (
    ProbeSettings,
    read_trained_words,
    score_together,
    score_trained_words,
    trained_word_findings,
)
from kelip_lightning.config.analysis import AnalogyAnalysis, Analysis, CultureAnalysis, TrainedWordsConfig
from kelip_lightning.config.experiment import SCHEMAS, ContrastiveExperiment
from kelip_lightning.config.load import find_schema, load_experiment
from kelip_lightning.errors import ConfigError, RunFolderError
from kelip_lightning.evaluation.embed import embed_images
from kelip_lightning.evaluation.zero_shot import class_embeddings
from kelip_lightning.models.model_folder import load_dual_encoder
from kelip_lightning.planning.stage_plan import stages_of
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.statistics.bootstrap import Bootstrap


def analyze_runs(runs: Sequence[RunFolder], settings: Analysis, device: torch.device) -> Outcome:
    """Analyse finished runs, several of them together where the analysis can.

    Raises:
        RunFolderError: A run stands twice, the analysis takes one run, or a run's settings cannot be read.
        DataError: Data of the settings is missing, damaged or too small.
    """
    paths = [run.path.resolve() for run in runs]
    if twice := next((run for run in runs if paths.count(run.path.resolve()) > 1), None):
        raise RunFolderError(f"{twice.path} stands twice; name each run once")
    if isinstance(settings, CultureAnalysis) and settings.trained_words is not None:
        return _trained_words(runs, settings, settings.trained_words, device)
    if len(runs) == 1:
        return analyze_run(runs[0], settings, device)
    if isinstance(settings, AnalogyAnalysis):
        return _analogy(runs, settings, device)
    raise RunFolderError(
        f"{len(runs)} runs are given, and this analysis takes one; several are analysed together by analogy, and by "
        "culture with trained_words"
    )


def training_data(run: RunFolder) -> ImageTextDataConfig:
    """The data that a run's contrastive training read.

    Raises:
        RunFolderError: The run's settings are missing, cannot be read, or hold no contrastive training.
    """
    if not run.config.is_file():
        raise RunFolderError(f"{run.path} has no {run.config.name}, so what it was trained on is unknown; restore it")
    try:
        schema = find_schema(run.config, SCHEMAS)
        loaded = load_experiment(run.config, [], schema, on_this_machine=False, stored=True, heavy=False)
    except ConfigError as error:
        raise RunFolderError(f"{run.config} cannot be read by this revision: {error.problems[0]}") from error
    stage = stages_of(loaded.experiment).get("contrastive")
    if not isinstance(stage, ContrastiveExperiment):
        raise RunFolderError(f"{run.path} has no contrastive training, so no words that it was trained on")
    return stage.data


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """The folders' names; their paths where two have one name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _load(run: RunFolder, device: torch.device) -> Encoders:
    trained = load_dual_encoder(run.dual_encoder)
    trained.model.to(device)
    return encoders_of(trained)


def _trained_words(
    runs: Sequence[RunFolder], settings: CultureAnalysis, words: TrainedWordsConfig, device: torch.device
) -> Outcome:
    resampling = settings.resampling
    found = [read_trained_words(training_data(run), words) for run in runs]
    probe = ProbeSettings(seed=resampling.seed, top=settings.top_k, num_draws=settings.num_draws)
    items: list[list[Item]] = []
    profiles: list[Profiles] = []
    for run, name, one in zip(runs, _names(runs), found, strict=True):
        model = _load(run, device)
        gallery = build_image_gallery(settings.gallery, model.image_size)
        if len(gallery.keys) < settings.top_k:
            raise DataError(
                f"top = {settings.top_k} needs as many images, and the gallery has {len(gallery.keys)}; lower top_k"
            )
        rows = {
            language: class_embeddings(
                model.texts, [[getattr(pair, language)] for pair in one.pairs], settings.templates[language]
            )
            for language in LANGUAGES
        }
        images = embed_images(model.images, gallery.images)
        ko, en = (rows[language].double().numpy() for language in LANGUAGES)
        profiles.append(score_profiles(ko, en, images))
        items.append(score_trained_words(name, one, rows, images, profiles[-1], probe))
    bootstrap = Bootstrap(seed=resampling.seed, num_resamples=resampling.num_resamples)
    findings = trained_word_findings(items, bootstrap, settings.top_k, score_together(found, profiles, probe))
    return Outcome(findings=findings, plots=runs_plots("trained_words", "", findings))


def _analogy(runs: Sequence[RunFolder], settings: AnalogyAnalysis, device: torch.device) -> Outcome:
    models = [_load(run, device) for run in runs]
    sizes = {model.image_size for model in models}
    if len(sizes) > 1:
        raise RunFolderError(
            f"the runs have images of {' and '.join(map(str, sorted(sizes)))} pixels, and several are analysed "
            "together on the same images; analyse them one by one"
        )
    sets = [build_analogy_set(name, one, models[0].image_size) for name, one in settings.sets.items()]
    for one in sets:
        split_halves(one.name, one.queries)
    bootstrap = Bootstrap(seed=settings.resampling.seed, num_resamples=settings.resampling.num_resamples)
    outcome = Outcome(findings=Findings())
    for one in sets:
        embedded = [
            RunEmbeddings(
                run=name,
                images=embed_images(model.images, one.gallery.images),
                texts={
                    language: class_embeddings(model.texts, one.texts[language], settings.templates[language])
                    for language in LANGUAGES
                },
            )
            for name, model in zip(_names(runs), models, strict=True)
        ]
        findings = findings_over_runs(one.name, one.queries, embedded, bootstrap)
        outcome.findings.extend(findings)
        outcome.plots |= runs_plots(f"analogy_{one.name}", f"{one.name}: ", findings)
    return outcome
