"""A study's file: defaults and validation."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kelip_lightning.ablations.config import Direction, load_ablation
from kelip_lightning.errors import ConfigError

STUDY: dict[str, Any] = {
    "question": "Which?",
    "paper": "Nothing.",
    "reference": "plain",
    "variants": {"other": {"about": "with", "overrides": ["seed_of=1"]}, "plain": {"about": "without"}},
    "scales": {"small": {"base": "base.yaml", "metrics": ["eval/a_ko/image_to_text_R@1"]}},
}


def _load(folder: Path, **changes: Any) -> Any:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY | changes, allow_unicode=True), encoding="utf-8")
    return load_ablation(file)


def test_load_ablation__defaults_and_reference_first(tmp_path: Path) -> None:
    study = _load(tmp_path, categories={"colour": {"ko": ["빨간"]}})
    assert study.seeds == 3
    assert list(study.variants_at("small")) == ["plain", "other"]
    assert study.categories == {"colour": {"ko": ["빨간"]}}


def test_variants_at__adds_those_of_the_scale(tmp_path: Path) -> None:
    scale = STUDY["scales"]["small"] | {"variants": {"third": {"about": "only here"}}}
    assert list(_load(tmp_path, scales={"small": scale}).variants_at("small")) == ["plain", "other", "third"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "seeds = 1 must be at least 2"),
        ({"reference": "nobody"}, "reference = 'nobody' is none of the variants other, plain"),
        ({"variants": {"plain": {"about": "a", "overrides": ["no equals"]}}}, "'no equals' is not an override"),
        ({"variants": {"plain": {"about": "a"}, "A b": {"about": "b"}}}, "'A b' becomes a folder"),
        ({"variants": {"plain": {"abuot": "a"}}}, "did you mean variants.plain.about"),
        ({"scales": {"small": {"base": "b.yaml", "metrics": []}}}, "metrics is empty"),
        ({"scales": {"small": {"base": "b.yaml", "metrics": ["accuracy"]}}}, "'accuracy' must read like eval/SET_ko"),
        ({"categories": {"colour": {"fr": ["rouge"]}}}, "categories.colour names the language 'fr'"),
    ],
)
def test_load_ablation__errors_name_file_and_remedy(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, **changes)
    assert message in str(caught.value)
    assert "study.yaml" in str(caught.value)


CLAIM: dict[str, Any] = {"text": "It helps.", "metrics": ["eval/a_ko/image_to_text_R@1"], "direction": "higher"}


def _load_claim(folder: Path, **changes: Any) -> Any:
    return _load(folder, scales={"small": STUDY["scales"]["small"] | {"claims": {"helps": CLAIM | changes}}})


def test_load_ablation__claims(tmp_path: Path) -> None:
    claim = _load_claim(tmp_path, variants=["other"], smallest=2.5).scales["small"].claims["helps"]
    assert (claim.direction, claim.variants, claim.smallest) == (Direction.higher, ["other"], 2.5)
    default = _load_claim(tmp_path).scales["small"].claims["helps"]
    assert (default.variants, default.smallest) == ([], None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metrics": ["eval/a_ko/image_to_text_R@5"]},
            "claims.helps.metrics names eval/a_ko/image_to_text_R@5, which is",
        ),
        ({"metrics": []}, "metrics is empty: name the metrics that decide the claim"),
        ({"metrics": ["eval/a/matched_minus_random", "eval/a_ko/zero_shot_top1"]}, "which have no common mean"),
        ({"metrics": CLAIM["metrics"] * 2}, "metrics names eval/a_ko/image_to_text_R@1 twice"),
        ({"variants": ["nobody"]}, "claims.helps.variants names 'nobody', which is not compared with the reference"),
        ({"variants": ["plain"]}, "names 'plain', which is not compared with the reference; use some of other"),
        (
            {"metrics": ["eval/a_ko/image_to_text_R@1", "eval/b_ko/image_to_text_R@1"]},
            "metrics names the sets a, b, and",
        ),
        ({"category": "smell"}, "claims.helps.category = 'smell' is none of the study's categories"),
        ({"direction": "sideways"}, "direction = 'sideways'"),
        ({"smallest": 0}, "smallest = 0"),
    ],
)
def test_load_ablation__claims_that_cannot_be_decided(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load_claim(tmp_path, **changes)
    assert message in str(caught.value)
