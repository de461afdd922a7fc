"""The demands at several numbers of GPUs: by their formulas, and as docs/scale.md shows them."""

import numpy as np
import pytest

from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.planning.scale import Assumptions, Scale, as_table, estimate_scale
from tests.paths import ROOT


@pytest.fixture(scope="module")
def found() -> list[Scale]:
    file = ROOT / "experiments" / "kelip_b32" / "contrastive.yaml"
    stage = load_experiment(file, [], ContrastiveExperiment, on_this_machine=False).experiment
    return estimate_scale(stage, [8, 80, 640], Assumptions())


def test_estimate_scale__by_the_formulas(found: list[Scale]) -> None:
    parameters = found[0].checkpoint_gigabytes * 1e9 / 12
    assert np.isclose(parameters, 177e6, rtol=0.01), "ViT-B/32 and its text encoder of 98,818 tokens"
    for one in found:
        nodes, others = one.gpus // 8, (one.gpus - 1) / one.gpus
        assert np.isclose(one.gradient_gigabytes, 2 * others * 4 * parameters / 1e9)
        assert np.isclose(one.feature_gigabytes, 2 * others * 32_640 * (5 + 1) * 512 * 4 / 1e9)
        assert np.isclose(one.step_seconds * one.pairs_per_second, 32_640)
        assert np.isclose(one.node_megabytes, one.pairs_per_second / nodes * 0.0287)
        assert np.isclose(one.requests / one.requests_window, 64)
        assert np.isclose(one.cache_gigabytes, 2.5 * 1_048_576 / nodes * 28_700 / 1e9)
        sent = one.gradient_gigabytes + one.feature_gigabytes
        assert np.isclose(one.link_share, sent / 25 / one.step_seconds)
    assert np.isclose(found[1].pairs_per_second, 10 * found[0].pairs_per_second)
    assert np.isclose(found[0].index_gigabytes, 1_184_000_000 * 24 / 1e9)


def test_documented_table__is_what_the_command_prints(found: list[Scale]) -> None:
    assert as_table(found) in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
