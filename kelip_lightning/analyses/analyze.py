"""Runs the analyses: embeds their data, computes findings, draws plots. `Encoders` adapts any model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data_modules.benchmarks.analogy_queries import build_analogy_set
from data_modules.benchmarks.evaluation_sets import build_caption_set, build_choice_set
from data_modules.benchmarks.galleries import build_image_gallery
from data_modules.benchmarks.image_stream import EvaluationTransform, SelectedImages, image_batches
from data_modules.benchmarks.word_pairs import nonsense_words, read_word_pairs
from data_modules.languages import LANGUAGES
from kelip_lightning.analyses import analogy, cross_lingual, culture
from kelip_lightning.analyses.culture import choice_findings
from kelip_lightning.analyses.output import Findings, Outcome
from kelip_lightning.analyses.plots import analogy_plots, cross_lingual_plots, culture_plots
from kelip_lightning.config.analysis import (
    AnalogyAnalysis,
    Analysis,
    CrossLingualAnalysis,
    CultureAnalysis,
    ResamplingConfig,
)
from kelip_lightning.distributed.sharing import blocks_of
from kelip_lightning.evaluation.embed import (
    ImageEncode,
    TextEncode,
    embed_images,
    embed_texts,
    image_encode_function,
    text_encode_function,
)
from kelip_lightning.evaluation.zero_shot import class_embeddings
from kelip_lightning.models.model_folder import TrainedModel, fresh_dual_encoder, load_dual_encoder
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.statistics.bootstrap import Bootstrap

_BATCH = 64
"""Images that are decoded together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """The interface of an analysed model."""

    images: ImageEncode
    """uint8 images (B, 3, S, S) -> (B, E)."""
    texts: TextEncode
    """B texts -> (B, E)."""
    image_size: int
    """S, pixels."""


def analyze_run(run: RunFolder, settings: Analysis, device: torch.device) -> Outcome:
    """Analyse a finished run, its model on `device`.

    Raises:
        DataError: Data of the settings is missing, damaged or too small.
    """
    trained = load_dual_encoder(run.dual_encoder)
    trained.model.to(device)
    model = encoders_of(trained)
    match settings:
        case CrossLingualAnalysis():
            control = untrained_control(trained, settings.resampling.seed)
            control.model.to(device)
            return analyze_cross_lingual(model, encoders_of(control), settings)
        case CultureAnalysis():
            return analyze_culture(model, settings)
        case AnalogyAnalysis():
            return analyze_analogy(model, settings)


def encoders_of(trained: TrainedModel) -> Encoders:
    """The encode functions of a dual encoder and its tokenizer."""
    return Encoders(
        images=image_encode_function(trained.model),
        texts=text_encode_function(trained.model, trained.tokenizer),
        image_size=trained.model.image_encoder.config.image_size,
    )


def untrained_control(trained: TrainedModel, seed: int) -> TrainedModel:
    """The same architecture and tokenizer with fresh weights, which depend only on the seed.

    Pretrained weights that initialised the model (`hf_weights`) are not loaded: they are trained.
    """
    model = trained.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = fresh_dual_encoder(
            model.image_encoder.config,
            model.text_encoder.config,
            model.config,
            trained.tokenizer,
            model.text_encoder.record(),
        )
    return TrainedModel(model=fresh.eval(), tokenizer=trained.tokenizer)


def analyze_cross_lingual(model: Encoders, control: Encoders, settings: CrossLingualAnalysis) -> Outcome:
    """Caption retrieval between the languages, centred similarity and gaps, of the model and the control."""
    sets = [build_caption_set(name, one) for name, one in settings.captions.items()]
    gallery = build_image_gallery(settings.gallery, model.image_size) if settings.gallery else None
    images = [embed_images(one.images, gallery.images) if gallery else None for one in (model, control)]
    bootstrap = _bootstrap(settings.resampling)
    findings = Findings()
    for one in sets:
        names = {one.name: model, f"{one.name}, {cross_lingual.CONTROL}": control}
        features = {name: _by_language(encoders.texts, one.captions) for name, encoders in names.items()}
        own, fresh = features.values()
        findings.extend(cross_lingual.caption_findings(one.name, one.captions, own, fresh, bootstrap))
        for name, shown in zip(names, images, strict=True):
            findings.summary += cross_lingual.gap_findings(name, features[name], shown, bootstrap)
    return Outcome(findings=findings, plots=cross_lingual_plots(findings, [one.name for one in sets]))


def analyze_culture(model: Encoders, settings: CultureAnalysis) -> Outcome:
    """Images retrieved by Korean and English words, a test of each pair, and choices between texts."""
    assert settings.word_pairs is not None  # trained_words needs the run: see `several_runs`
    pairs = read_word_pairs(settings.word_pairs)
    gallery = build_image_gallery(settings.gallery, model.image_size)
    culture.check_enough(pairs, len(gallery.keys), settings.top_k)
    choices = [build_choice_set(name, one, section="choices") for name, one in settings.choices.items()]
    bootstrap = _bootstrap(settings.resampling)
    words, nonsense = {}, {}
    for language in LANGUAGES:
        own, templates = [getattr(pair, language) for pair in pairs], settings.templates[language]
        made_up = nonsense_words(own, settings.resampling.seed)
        words[language] = class_embeddings(model.texts, [[word] for word in own], templates)
        nonsense[language] = class_embeddings(model.texts, [[word] for word in made_up], templates)
    images = embed_images(model.images, gallery.images)
    findings, first = culture.compare_words(
        pairs, words, nonsense, images, bootstrap, settings.top_k, settings.num_draws
    )
    for one in choices:
        options = embed_texts(model.texts, [text for texts in one.texts for text in texts])
        counts = [len(texts) for texts in one.texts]
        questions = _embed_stored(model, one.images, f"choices.{one.name}")
        findings.extend(choice_findings(one.name, questions, options, counts, one.answers.tolist(), bootstrap))
    return Outcome(findings=findings, plots=culture_plots(findings, pairs, first, gallery.images, settings.num_shown))


def analyze_analogy(model: Encoders, settings: AnalogyAnalysis) -> Outcome:
    """Embedding arithmetic on images and texts."""
    sets = [build_analogy_set(name, one, model.image_size) for name, one in settings.sets.items()]
    for one in sets:
        analogy.split_halves(one.name, one.queries)
    bootstrap = _bootstrap(settings.resampling)
    outcome = Outcome(findings=Findings())
    for one in sets:
        images = embed_images(model.images, one.gallery.images)
        texts = {
            language: class_embeddings(model.texts, one.texts[language], settings.templates[language])
            for language in LANGUAGES
        }
        findings = analogy.analogy_findings(one.name, one.queries, images, texts, bootstrap)
        outcome.findings.extend(findings)
        outcome.plots |= analogy_plots(findings, one, images, texts, settings.num_shown)
    return outcome


def _embed_stored(model: Encoders, images: SelectedImages, owner: str) -> Tensor:
    """(N, E) unit rows of images that are decoded a batch at a time."""
    batches = blocks_of(len(images), _BATCH)
    stream = image_batches(images, EvaluationTransform(model.image_size), batches, num_workers=0, owner=owner)
    return torch.cat([embed_images(model.images, pixels) for _, pixels in stream])


def _by_language(encode: TextEncode, captions: dict[str, list[str]]) -> dict[str, Tensor]:
    return {language: embed_texts(encode, texts) for language, texts in captions.items()}


def _bootstrap(config: ResamplingConfig) -> Bootstrap:
    return Bootstrap(seed=config.seed, num_resamples=config.num_resamples)
