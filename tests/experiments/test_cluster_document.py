"""The metrics in docs/cluster.md and experiments/kelip_b32/README.md equal those of `kelip plan`."""

import pytest

from kelip_lightning.planning.estimate import StageEstimate
from tests.paths import ROOT

DOCUMENT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
PAPER_HOURS = 362


def test_cluster_document__memory(paper_plan: dict[str, StageEstimate]) -> None:
    for one in paper_plan["contrastive"].memory:
        state = (one.state.weights, one.state.gradients, one.state.optimizer, one.state.buffers)
        cells = [f"{number / 1e9:.2f}" for number in state]
        cells.append(f"{one.activations / 1e9:.2f} ({one.activations_checkpointed / 1e9:.2f})")
        cells.append(f"{one.total / 1e9:.2f} ({one.total_checkpointed / 1e9:.2f})")
        assert f"| {one.strategy} | {' | '.join(cells)} |" in DOCUMENT


@pytest.mark.parametrize("utilisation", [0.4, 0.12, 0.076])
def test_cluster_document__hours(utilisation: float, paper_plan: dict[str, StageEstimate]) -> None:
    time = paper_plan["contrastive"].throughput
    factor = utilisation / time.utilisation
    assert f"| {time.samples_per_second_per_device * factor:,.0f} | {time.hours / factor:.1f} |" in DOCUMENT
    assert f"{time.loss_share:.1%} of the time".replace("%", " %") in DOCUMENT


def test_cluster_document__operations_and_images(paper_plan: dict[str, StageEstimate]) -> None:
    flops = paper_plan["contrastive"].flops
    metrics = (flops.one_crop_training, flops.training, flops.loss_training, paper_plan["mae"].flops.training)
    for operations in metrics:
        assert f" | {operations / 1e9:.2f} |" in DOCUMENT
    for stage in paper_plan.values():
        assert f"{stage.throughput.images_per_second_per_node:,.0f}" in DOCUMENT


def test_readme__utilisation_of_the_paper_s_run(paper_plan: dict[str, StageEstimate]) -> None:
    readme = (ROOT / "experiments" / "kelip_b32" / "README.md").read_text(encoding="utf-8")
    contrastive, mae = paper_plan["contrastive"], paper_plan["mae"]
    flops = contrastive.flops
    # Hours of the networks alone at the full peak: over the paper's hours they are the utilisation.
    times = contrastive.throughput, mae.throughput
    hours, mae_hours = (time.hours * time.utilisation * (1 - time.loss_share) for time in times)
    two_crops = flops.training + flops.passes[0].training
    for operations in (flops.one_crop_training, flops.training, two_crops):
        share = hours * operations / flops.training / PAPER_HOURS
        assert f"{operations / 1e9:.2f} GFLOP | {share:.1%} |".replace("%", " %") in readme
    assert f"{mae.flops.training / 1e9:.2f} GFLOP | {mae_hours / 16:.1%}".replace("%", " %") in readme
