"""The experiments as commented YAML: `base.yaml`, `mae.yaml`, `contrastive.yaml`, `pretrain.yaml`."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_modules.languages import LANGUAGES
from data_modules.preparation.survey.files import Kind
from data_modules.preparation.survey.held_out import HeldOutBy
from data_modules.preparation.survey.survey import DataSurvey
from kelip_lightning.scaffolding.machine import Machine
from kelip_lightning.scaffolding.sizing import (
    BATCHES_PER_EPOCH,
    BUDGET,
    EPOCHS,
    Sizing,
    training_images,
    training_pairs,
)

_WIDTH = 120


@dataclass(slots=True)
class _Lines:
    """YAML that is written line by line, with comments."""

    lines: list[str] = field(default_factory=list)

    def add(self, indent: int, key: str, value: Any = None, comment: str = "") -> None:
        """`key: value  # comment`; a section without a value; a comment that is too long goes above."""
        text = "  " * indent + f"{key}:" + (f" {_flow(value)}" if value is not None else "")
        if comment and len(text) + len(comment) + 4 > _WIDTH:
            self.note(indent, comment)
            comment = ""
        self.lines.append(f"{text}  # {comment}" if comment else text)

    def note(self, indent: int, text: str) -> None:
        """A comment of its own, wrapped."""
        line = ""
        for word in text.split():
            if line and 2 * indent + len(line) + len(word) + 3 > _WIDTH:
                self.lines.append("  " * indent + f"# {line}")
                line = ""
            line += f" {word}" if line else word
        self.lines.append("  " * indent + f"# {line}")

    def entries(self, indent: int, values: Mapping[str, tuple[Any, str]]) -> None:
        """Keys with values and comments; a list of several files stands one to a line."""
        for key, (value, comment) in values.items():
            if isinstance(value, list) and len(value) > 1:
                self.add(indent, key, None, comment)
                self.lines += ["  " * (indent + 1) + f"- {_flow(one)}" for one in value]
            else:
                self.add(indent, key, value, comment)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


Settings = dict[str, tuple[Any, str]]
"""Key -> value and comment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Files for training and for evaluation, as they are on disk."""

    train: list[Path]
    held_out: dict[str, list[Path]]
    """Language -> files of captions in it; the empty language: all."""
    are_copies: bool = False
    """Whether `kelip init` wrote them, in UTF-8 and separated by commas."""


def experiment_files(name: str, survey: DataSurvey, sizing: Sizing, machine: Machine, parts: Parts) -> dict[str, str]:
    """File name -> YAML. Without captions there is only `mae.yaml`.

    Args:
        name: Of the run.
        survey: The data.
        sizing: The sizes.
        machine: What they were chosen for.
        parts: The files to name.
    """
    if not survey.captions.columns:
        return {"mae.yaml": _mae(survey, sizing, parts, _base(name, survey, sizing, machine))}
    extends = ["extends: base.yaml"]
    header = (
        f"# Both stages on {_place(survey)}: MAE pre-training, then contrastive training from its encoder.\n"
        "# `mae=null` skips MAE pre-training; a key without a stage (`seed=1`) goes to both stages.\n"
    )
    stages = "mae:\n  extends: mae.yaml\ncontrastive:\n  extends: contrastive.yaml\n"
    return {
        "base.yaml": "# What both stages share.\n" + "\n".join(_base(name, survey, sizing, machine)) + "\n",
        "mae.yaml": _mae(survey, sizing, parts, extends),
        "contrastive.yaml": _contrastive(survey, sizing, parts, extends),
        "pretrain.yaml": f"{header}name: {_flow(name)}\n{stages}",
    }


def _place(survey: DataSurvey) -> str:
    train = survey.files.train
    return str(train[0] if len(train) == 1 else os.path.commonpath(train))


def _base(name: str, survey: DataSurvey, sizing: Sizing, machine: Machine) -> list[str]:
    out, model, sizes = _Lines(), sizing.model, survey.sizes
    out.add(0, "name", name, "the run's folder is runs/NAME")
    out.add(0, "seed", 0)
    out.note(0, f"Sized to this machine: {machine.described}.")
    out.add(0, "image_encoder")
    sides = f"short sides of {sizes.num_images} images: {sizes.smallest} to {sizes.largest} px, median {sizes.median}"
    out.add(1, "image_size", sizing.image_size, sides)
    out.add(1, "patch_size", sizing.patch_size, f"{(sizing.image_size // sizing.patch_size) ** 2} patches of an image")
    out.add(1, "width", model.width, f"size: {model.name}")
    out.add(1, "depth", model.depth)
    out.add(1, "num_heads", model.num_heads)
    out.add(0, "trainer")
    out.add(1, "precision", "auto", "bf16-mixed where the device supports bfloat16, else 32")
    out.add(1, "devices", "auto", "one process per GPU, or per CPU core and 32 samples")
    out.add(1, "log_every_n_steps", 10)
    return out.lines


def _mae(survey: DataSurvey, sizing: Sizing, parts: Parts, head: list[str]) -> str:
    images, model = training_images(survey), sizing.model
    out = _Lines([f"# MAE pre-training of the image encoder on {_place(survey)}: captions are not read.", *head])
    if not survey.captions.columns:
        out.lines[1:1] = ["# No column with Korean or English captions was found, so there is no contrastive stage."]
    out.add(0, "data")
    out.add(1, "global_batch_size", sizing.mae_batch_size, _batch_comment(images, "images"))
    out.add(1, "num_workers", sizing.num_workers, "loader processes per device")
    _sources(out, survey, parts, with_captions=False)
    out.add(0, "transform")
    out.add(1, "image_size", sizing.image_size)
    out.add(1, "scale_min", 0.2 if sizing.has_gpu else 0.5, "smallest area share of the crop")
    out.add(0, "masked_autoencoder")
    out.add(1, "decoder_width", model.decoder_width)
    out.add(1, "decoder_depth", model.decoder_depth)
    out.add(1, "decoder_num_heads", model.decoder_heads)
    _optimizer(out, sizing, sizing.mae_batch_size, is_mae=True)
    _schedule(out, sizing.mae_max_steps, sizing.mae_batch_size, images, "images", BUDGET[sizing.has_gpu] // 2)
    return out.text


def _contrastive(survey: DataSurvey, sizing: Sizing, parts: Parts, head: list[str]) -> str:
    pairs, model, batch = training_pairs(survey), sizing.model, sizing.batch_size
    out = _Lines([f"# Contrastive training with multi-crop on {_place(survey)}.", *head])
    out.add(0, "data")
    out.add(1, "global_batch_size", batch, _batch_comment(pairs, "pairs"))
    out.add(1, "num_workers", sizing.num_workers, "loader processes per device")
    _sources(out, survey, parts, with_captions=True)
    out.add(0, "transform")
    out.add(1, "image_size", sizing.image_size)
    out.add(1, "num_global_crops", sizing.num_global_crops)
    out.add(1, "global_scale_min", 0.9, "weak crops: a caption describes the whole image")
    out.add(1, "local_size", sizing.local_size)
    out.add(1, "num_local_crops", sizing.num_local_crops)
    out.add(1, "local_scale_min", 0.3 if sizing.has_gpu else 0.5)
    out.add(1, "local_scale_max", 0.9)
    out.add(0, "tokenizer", None, "trained on the captions of the run")
    out.add(1, "vocab_size", sizing.vocab_size, "4,000 below 100,000 pairs, 16,000 below 1,000,000, else 32,000")
    length = survey.caption_characters(95)
    out.add(1, "context_length", sizing.context_length, f"95 % of the captions have at most {length} characters")
    out.add(0, "text_encoder")
    out.add(1, "width", model.text_width)
    out.add(1, "depth", model.text_depth)
    out.add(1, "num_heads", model.text_heads)
    out.add(0, "image_encoder")
    out.add(1, "patch_drop_rate", 0.5, "half the patches of a global crop: half the cost")
    out.add(0, "dual_encoder")
    out.add(1, "embed_dim", model.embed_dim)
    _optimizer(out, sizing, batch, is_mae=False)
    _schedule(out, sizing.max_steps, batch, pairs, "pairs", BUDGET[sizing.has_gpu])
    _evaluation(out, survey, sizing, parts)
    return out.text


def _batch_comment(samples: int, what: str) -> str:
    return f"a power of two, at most 1/{BATCHES_PER_EPOCH} of {samples:,} {what}, and what the device holds"


def _optimizer(out: _Lines, sizing: Sizing, batch: int, *, is_mae: bool) -> None:
    out.add(0, "optimizer")
    if sizing.has_gpu:
        rate, why = (1.5e-4 * batch / 256, "MAE: 1.5e-4 x batch / 256") if is_mae else (5e-4, "CLIP, ViT-B/32")
        out.add(1, "name", "adamw")
        decay = 0.05 if is_mae else 0.2
    else:
        peak = 2e-3 if is_mae else 3e-3
        rate, why = (
            peak * (batch / 256) ** 0.5,
            f"emoji experiments: {peak:g} at batch 256; times the root of the ratio",
        )
        out.add(1, "name", "muon")
        decay = 0.05
    out.add(1, "learning_rate", float(f"{rate:.2g}"), why)
    out.add(1, "weight_decay", decay)
    if is_mae:
        out.add(1, "beta2", 0.95)


def _schedule(out: _Lines, steps: int, batch: int, samples: int, what: str, budget: int) -> None:
    passes = f"{steps * batch / max(1, samples):.3g} passes over {samples:,} {what}"
    rule = f"at most {EPOCHS} passes and {budget:,} {what}, and at least one pass"
    out.add(0, "schedule")
    out.add(1, "max_steps", steps, f"{passes} ({rule})")
    out.add(1, "warmup_steps", min(2000, steps // 20))


def _sources(out: _Lines, survey: DataSurvey, parts: Parts, *, with_captions: bool) -> None:
    out.add(1, "sources")
    out.add(2, "data", None, _counted(survey))
    if survey.faults:
        looked_at = len(survey.rows.rows) + sum(survey.rows.faults.values())
        found = ", ".join(f"{number} {kind}" for kind, number in survey.faults.most_common())
        out.note(3, f"Of {looked_at} looked at cannot be used: {found} (docs/data.md, corrupt samples).")
    out.entries(3, source_settings(survey, parts, with_captions=with_captions))
    if sum(survey.faults.values()) > 0.005 * len(survey.rows.rows):
        share = min(1.0, 2 * sum(survey.faults.values()) / len(survey.rows.rows))
        out.add(1, "corrupt_samples", {"max_share": round(share, 3)}, "twice the share found; the default is 0.01")


def _counted(survey: DataSurvey) -> str:
    about = "about " if survey.rows.is_estimated else ""
    return f"{survey.files.kind.value}, {about}{survey.rows.num_rows:,} rows"


def source_settings(survey: DataSurvey, parts: Parts, *, with_captions: bool) -> Settings:
    """The settings of the source for training."""
    found = _place_settings(survey, parts.train, are_copies=parts.are_copies)
    if survey.files.kind is Kind.dataset and survey.rows.split not in (None, "train"):
        found["split"] = (survey.rows.split, f"it has {', '.join(survey.rows.splits)}")
    if survey.held_out.where_train:
        found["where"] = (survey.held_out.where_train, survey.held_out.reason)
    if with_captions:
        found |= _caption_settings(survey)
    return found


def _place_settings(survey: DataSurvey, files: list[Path], *, are_copies: bool) -> Settings:
    """Files, image column, encoding, key."""
    kind, rows = survey.files.kind, survey.rows
    where = "written by kelip init, beside this file" if are_copies else ""
    found: Settings = {"files": ([file.name for file in files] if are_copies else file_patterns(files), where)}
    if kind is Kind.pictures:
        return found | {"format": ("folder", "every image in it and in the folders below")}
    if kind is Kind.shards:
        return found
    if survey.image != "image":
        found["image"] = (survey.image, "its cells are image files, or their names")
    root = survey.image_root or (survey.files.train[0].parent if are_copies else None)
    if root is not None:
        found["image_root"] = (str(root), "where the images of the sample were found")
    if survey.has_absolute_paths:
        found["allow_absolute_paths"] = (True, "the table names images by absolute paths, or by .. ")
    if rows.encoding != "utf-8" and not are_copies:
        found["encoding"] = (rows.encoding, "the file is not UTF-8")
    if rows.separator is not None and files[0].suffix.lower() == ".csv":
        why = "as kelip init wrote it" if are_copies else "detected: it cuts all lines into equally many columns"
        found["separator"] = ("," if are_copies else rows.separator, why)
    if survey.key is not None:
        found["key"] = (survey.key, "every value of the sample is different")
    return found


def file_patterns(files: Sequence[Path]) -> list[str]:
    """The files, as one pattern with braces if they are numbered without a gap (`{00000..00099}.tar`)."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", str(file)) for file in files]
    found = [part.groups() for part in parts if part is not None]
    frames = {(head, tail, len(digits)) for head, digits, tail in found}
    numbers = [int(digits) for _, digits, _ in found]
    if len(files) > 2 and len(found) == len(files) and len(frames) == 1:
        ((head, tail, width),) = frames
        if numbers == list(range(numbers[0], numbers[0] + len(files))) and not set("{}") & set(head + tail):
            return [f"{head}{{{numbers[0]:0{width}d}..{numbers[-1]:0{width}d}}}{tail}"]
    return [str(file) for file in files]


def _caption_settings(survey: DataSurvey) -> Settings:
    captions = survey.captions
    described = "by script: " + ", ".join(one.described for one in captions.chosen)
    if captions.others:
        described += "; also possible: " + ", ".join(one.described for one in captions.others[:4])
    if captions.mixed is None:
        return {"captions": (captions.by_language, described)}
    found: Settings = {"caption_fields": ([captions.mixed], described)}
    if captions.language_field is not None:
        return found | {"language_field": (captions.language_field, "its cells are names of Korean and English")}
    return found | {"language": ("detect", "both languages are in one column")}


def _evaluation(out: _Lines, survey: DataSurvey, sizing: Sizing, parts: Parts) -> None:
    held_out, captions = survey.held_out, survey.captions
    out.note(0, f"Evaluation: {held_out.reason}.")
    sets = _sets(survey, parts)
    if not sets:
        if captions.mixed is not None and held_out.by is not HeldOutBy.nothing:
            out.note(0, "Sets are evaluated by language: write the captions of each into a column (docs/own-data.md).")
        return
    out.add(0, "evaluation")
    out.add(1, "every_n_steps", max(1, sizing.max_steps // 4))
    out.add(1, "retrieval")
    for name, one in sets.items():
        out.add(2, name)
        out.lines.append(f"      table: &{name}")
        out.entries(4, {key: (value, "") for key, (value, _) in one.table.items()})
        if one.where:
            out.add(3, "where", one.where)
        out.add(3, "duplicates", "shared", "equal captions of several images are right answers for each of them")
    name, one = next(iter(sets.items()))
    if len(captions.by_language) == len(LANGUAGES):
        out.add(1, "captions")
        out.add(2, name, None, "retrieval between the languages, without images")
        out.lines.append(f"      table: *{name}")
        if one.where:
            out.add(3, "where", one.where)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """An evaluation set."""

    table: Settings
    where: dict[str, list[str]]


def _sets(survey: DataSurvey, parts: Parts) -> dict[str, _Set]:
    """Name -> retrieval set: one of both languages, or, if they are in one column, one of each."""
    held_out, captions, sets = survey.held_out, survey.captions, dict[str, _Set]()
    if held_out.by is HeldOutBy.nothing:
        return sets
    if captions.mixed is None:
        return {"held_out": _set(survey, parts.held_out[""], captions.by_language, parts, held_out.where)}
    for language in LANGUAGES:
        where = dict(held_out.where)
        if captions.language_field is not None and not parts.are_copies:
            where[captions.language_field] = captions.language_values.get(language, [])
        elif language not in parts.held_out:
            return {}
        files = parts.held_out.get(language, parts.held_out.get("", []))
        sets[f"held_out_{language}"] = _set(survey, files, {language: captions.mixed}, parts, where)
    return sets


def _set(
    survey: DataSurvey, files: list[Path], captions: dict[str, str], parts: Parts, where: dict[str, list[str]]
) -> _Set:
    table = _place_settings(survey, files, are_copies=parts.are_copies)
    if survey.files.kind is Kind.dataset:
        table["split"] = (survey.held_out.split or survey.rows.split or "train", "")
    table["captions"] = (captions, "")
    return _Set(table=table, where=where)
