"""Settings of the training data of both stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_modules.config_roles import PERFORMANCE, above, at_least, between, check_ranges
from data_modules.images.config import MAX_IMAGE_PIXELS, MultiCropConfig
from data_modules.languages import LANGUAGES
from data_modules.sources.config import (
    NAME_CAPTIONS,
    LanguageRule,
    PlantedConfig,
    SourceConfig,
    SourceKind,
    needs_language_marks,
    source_kind,
)
from data_modules.text.config import CaptionConfig


@dataclass(kw_only=True, slots=True)
class OrderConfig:
    """Order and frequency of the samples of the sources."""

    temperature: float = field(default=1.0, metadata=at_least(1))
    """1: the natural mixture, every sample `weight` times per epoch. T > 1: each language of each source gets a share
    of the epoch proportional to (weight x pairs)^(1/T); the epoch keeps its length, small shares repeat samples."""
    language_weights: dict[str, float] = field(default_factory=dict, metadata=above(0))
    """Language -> passes over its pairs per epoch, > 0, times the source's weight; default 1."""
    single_language_batches: bool = False
    """Whether each global batch is in one language; languages alternate in proportion to their numbers of pairs."""
    shuffle_window: int = field(default=0, metadata=at_least(0))
    """Number of consecutive samples that are shuffled together; 0: the whole epoch, without runs (see docs/data.md)."""
    run_length: int = field(default=64, metadata=at_least(1))
    """Neighbours in a source that form a run, which is shuffled as a whole; used with a `shuffle_window`."""

    groups: int = field(default=1, metadata=at_least(1))
    """Equal parts of a global batch that draw from runs of their own, with a `shuffle_window` of a store: a multiple of
    the number of nodes, so that each node reads its own runs only (docs/data.md)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.groups > 1 and not self.shuffle_window:
            raise ValueError(
                f"order.groups = {self.groups} has no effect without an order.shuffle_window: set one, or groups = 1"
            )
        for language in self.language_weights:
            if language not in LANGUAGES:
                raise ValueError(f"language_weights names {language!r}: use ko or en")

    @property
    def splits_languages(self) -> bool:
        """Whether the languages of a source are sampled separately."""
        return self.temperature > 1 or bool(self.language_weights) or self.single_language_batches


@dataclass(kw_only=True, slots=True)
class CorruptSampleConfig:
    """Handling of samples that cannot be used."""

    max_share: float = field(default=0.01, metadata=PERFORMANCE | between(0, 1))
    """Fraction of skipped samples, in [0, 1], above which the run stops; checked from 10 / max_share samples on."""
    max_image_pixels: int = field(default=MAX_IMAGE_PIXELS, metadata=at_least(1))
    """Larger images are skipped before they are decoded."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(kw_only=True, slots=True)
class ImageDataConfig:
    """The images of MAE pre-training; captions are not read."""

    sources: dict[str, SourceConfig]
    """Name -> source; leave `captions` out, or name one language, so that each image comes once per epoch."""
    global_batch_size: int = field(default=256, metadata=at_least(1))
    """Images of one optimizer step over all devices and accumulation steps."""
    num_workers: int = field(default=1, metadata=PERFORMANCE | at_least(0))
    """`DataLoader` workers per device; the order of samples does not depend on it."""
    prefetch_megabytes: int = field(default=8192, metadata=PERFORMANCE | at_least(1))
    """Most memory, in MiB per device, of the batches that the loader processes make ahead, up to four each."""
    order: OrderConfig = field(default_factory=OrderConfig)
    """Mixture of sources and languages, and shuffling."""
    corrupt_samples: CorruptSampleConfig = field(default_factory=CorruptSampleConfig)
    """Handling of samples that cannot be used."""
    resize_on_device: bool = False
    """Whether a GPU cuts and resizes the crops, so that the loader only decodes; a pixel differs by up to 2 of 255.
    Without effect if the device is a CPU."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_streams(self.sources, self.order)
        _check_groups(self.global_batch_size, self.order)
        for name, source in self.sources.items():
            if self.order.splits_languages and not source.has_captions:
                raise ValueError(
                    f"order.temperature, language_weights and single_language_batches are about languages, and source "
                    f"'{name}' has images without captions: leave them out, or name its captions"
                )


@dataclass(kw_only=True, slots=True)
class ImageTextDataConfig:
    """The pair set of contrastive training."""

    sources: dict[str, SourceConfig]
    """Name -> source; the pair set is their weighted mixture."""
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    """Sampling of captions."""
    languages: LanguageRule = LanguageRule.both
    """Language of a pair: both (every image with all its captions), by_image, by_concept, by_design (a hash of its key,
    concept or design assigns one language), ko or en (one language only)."""
    language_overlap: float = field(default=0.0, metadata=between(0, 1))
    """Fraction of the images, concepts or designs that a by_... rule leaves in both languages, by the same hash."""
    planted: PlantedConfig | None = None
    """Word pairs whose images are split by language on purpose; null: none."""
    global_batch_size: int = field(default=128, metadata=at_least(1))
    """Pairs of one optimizer step over all devices and accumulation steps."""
    num_workers: int = field(default=1, metadata=PERFORMANCE | at_least(0))
    """`DataLoader` workers per device; the order of samples does not depend on it."""
    prefetch_megabytes: int = field(default=8192, metadata=PERFORMANCE | at_least(1))
    """Most memory, in MiB per device, of the batches that the loader processes make ahead, up to four each."""
    order: OrderConfig = field(default_factory=OrderConfig)
    """Mixture of sources and languages, and shuffling."""
    corrupt_samples: CorruptSampleConfig = field(default_factory=CorruptSampleConfig)
    """Handling of samples that cannot be used."""
    allow_repeats: bool = field(default=False, metadata=PERFORMANCE)
    """Whether a batch may hold pairs twice, as negatives of themselves: a batch larger than an epoch, or one of which
    more than 1 % repeats. Checked before the run starts."""
    allow_partial_epoch: bool = field(default=False, metadata=PERFORMANCE)
    """Whether the run may end before it has seen every pair. Checked before the run starts."""
    resize_on_device: bool = False
    """Whether a GPU cuts and resizes the crops, so that the loader only decodes; a pixel differs by up to 2 of 255. Not
    beside strong augmentation; without effect if the device is a CPU."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_streams(self.sources, self.order)
        _check_groups(self.global_batch_size, self.order)
        _check_captions(self.sources)
        _check_rule(self.sources, self.languages)
        if self.language_overlap and not self.languages.by_hash:
            raise ValueError(
                f"language_overlap = {self.language_overlap:g} has no effect with languages = {self.languages.name}: "
                "use by_image, by_concept or by_design, or leave it out"
            )
        if self.planted is not None:
            _check_planted(self.planted, self.sources, self.languages, self.order)


def _check_groups(batch: int, order: OrderConfig) -> None:
    """Raises ValueError if the groups are not equal."""
    if batch % order.groups:
        raise ValueError(f"global_batch_size = {batch} must be a multiple of order.groups = {order.groups}")


def _check_streams(sources: Mapping[str, SourceConfig], order: OrderConfig) -> None:
    """Raises ValueError if a source is streamed and cannot be read in this order."""
    for name, source in sources.items():
        if source_kind(source) is not SourceKind.stream:
            continue
        if order.shuffle_window == 0:
            raise ValueError(
                f"order.shuffle_window = 0 mixes whole epochs, and source '{name}' is streamed: set the number of rows "
                "to shuffle together, for example 4096"
            )
        if order.splits_languages and needs_language_marks(source):
            raise ValueError(
                f"order.temperature, language_weights and single_language_batches need languages in advance, and those "
                f"of the streamed source '{name}' are known only from its rows: give it language = ko or en"
            )


def _check_captions(sources: Mapping[str, SourceConfig]) -> None:
    """Raises ValueError if a source has no captions."""
    for name, source in sources.items():
        if not source.has_captions:
            raise ValueError(
                f"source '{name}' has neither captions nor caption_fields, and contrastive training needs texts: "
                f"{NAME_CAPTIONS}; images alone serve MAE pre-training"
            )


def _check_rule(sources: Mapping[str, SourceConfig], rule: LanguageRule) -> None:
    """Raises ValueError if the rule reads a column and a source has none."""
    for name, source in sources.items():
        if rule.column is not None and source_kind(source) is SourceKind.shards:
            raise ValueError(
                f"languages = {rule.name} reads the column '{rule.column}', and source '{name}' is shards, which have "
                "none: use by_image, or a table"
            )


def _check_planted(
    planted: PlantedConfig, sources: Mapping[str, SourceConfig], rule: LanguageRule, order: OrderConfig
) -> None:
    """Raises ValueError if word pairs cannot be split by language."""
    if rule is not LanguageRule.both:
        raise ValueError(
            f"planted gives pairs a language, and so does languages = {rule.name}: remove planted, or set languages = "
            "both"
        )
    if order.splits_languages:
        raise ValueError(
            "planted decides the language pair by pair, so that order.temperature, language_weights and "
            "single_language_batches have no languages to go by: leave them out, or remove planted"
        )
    for name, source in sources.items():
        if source_kind(source) is not SourceKind.table or set(source.keywords) != set(LANGUAGES):
            raise ValueError(
                f"planted needs tables with captions and keywords in both languages, and source '{name}' is none: "
                "remove planted, or name its columns in captions and keywords"
            )
        kept = {*(one.column for one in LanguageRule), *source.attributes, *source.where}
        for key, column in (("column", planted.column), ("kind", planted.kind)):
            if column is not None and column not in kept:
                raise ValueError(
                    f"planted.{key} = {column!r} is no column that the records of source '{name}' keep: add it to the "
                    "source's attributes"
                )


def resize_problem(resize_on_device: bool, transform: MultiCropConfig, at: str = "") -> str | None:
    """One sentence if the crops are augmented on the CPU and cut on the device; `at` is the prefix of the keys."""
    if not resize_on_device or not transform.augments:
        return None
    section = "transform.views.strong" if transform.strong.is_off else "transform.strong"
    return (
        f"{at}data.resize_on_device = true leaves the crops to the device, and {at}{section} augments their pixels on "
        "the CPU: set resize_on_device to false, or the probabilities of strong and its rand_augment_ops to 0"
    )
