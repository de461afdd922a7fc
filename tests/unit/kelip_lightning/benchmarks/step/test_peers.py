"""The peers train what we train."""

from collections.abc import Callable

import pytest
import torch

from kelip_lightning.benchmarks.step import peers
from kelip_lightning.benchmarks.step.batches import float_batch, make_batches
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.clock import StepClock
from kelip_lightning.benchmarks.step.peers import (
    INSTALL,
    LONGEST,
    PADDED,
    PEERS,
    PLAIN,
    build_optimizer,
    build_peer,
    entries_of,
    peers_of,
    train,
    width_of,
)
from kelip_lightning.benchmarks.step.setting import StepSetting, experiment_of
from kelip_lightning.benchmarks.step.trainer_steps import StopCallback, build_module, fit
from kelip_lightning.interchange.formats.key_map import Tensors, to_theirs
from kelip_lightning.optim.optimizers import group_kinds

Setting = Callable[..., StepSetting]
CPU = torch.device("cpu")


def _weights(setting: StepSetting) -> Tensors:
    state = build_module(setting, 3).model.state_dict()
    return {name: one.clone() for name, one in to_theirs(entries_of(setting), dict(state)).items()}


@pytest.mark.parametrize(("name", "crops"), [*((one, (1, 0)) for one in PEERS), (PLAIN, (2, 3))])
def test_train__ends_at_our_weights(
    tiny_setting: Setting, lengths: CaptionLengths, name: str, crops: tuple[int, int]
) -> None:
    """Three steps in float32: model, loss, optimizer, groups, schedule, clipping and batches are all the same."""
    setting = tiny_setting(global_crops=crops[0], local_crops=crops[1])
    batches = make_batches(setting, lengths, 0)
    ours, start = build_module(setting, 3), _weights(setting)
    fit(experiment_of(setting, 3), ours, batches, 3, StopCallback(StepClock(CPU, 1, 2)))
    peer = build_peer(name, setting, start)
    train(peer, setting, [float_batch(one, width_of(name, setting)) for one in batches], StepClock(CPU, 1, 2))
    expected = to_theirs(entries_of(setting), dict(ours.model.state_dict()))
    found = dict(peer.network.named_parameters())
    assert found.keys() == expected.keys()
    for key, one in expected.items():
        # Adam divides by the gradient's size, so that rounding of tiny gradients moves weights by a share of 3 rates.
        assert (found[key] - one).abs().max() < 2e-4, key
        moved = (one - start[key]).norm()
        assert moved > 0 and (found[key] - one).norm() < 0.02 * moved, key


def test_build_optimizer__decays_what_ours_decays(tiny_setting: Setting) -> None:
    setting = tiny_setting()
    module, network = build_module(setting, 1), build_peer(PLAIN, setting, _weights(setting)).network
    ours = {name: kind.decays for name, kind in group_kinds(module.model, module._optimizer_config).items()}
    optimizer = build_optimizer(network, setting, 1)
    decayed = {id(one) for group in optimizer.param_groups if group["weight_decay"] for one in group["params"]}
    for entry in entries_of(setting):
        for theirs in entry.theirs:
            assert (id(network.get_parameter(theirs)) in decayed) is ours[entry.ours[0]], theirs
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.2}


def test_width_of__the_context_for_the_padded_one_alone(tiny_setting: Setting) -> None:
    assert {name: width_of(name, tiny_setting()) for name in PEERS} == {PADDED: 32, LONGEST: None, PLAIN: None}


def test_peers_of__leaves_out_open_clip_with_a_reason(tiny_setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert peers_of(tiny_setting()) == (list(PEERS), [])
    names, (reason,) = peers_of(tiny_setting(local_crops=1))
    assert names == [PLAIN] and "multi-crop" in reason
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda _: None)
    assert peers_of(tiny_setting()) == ([PLAIN], [INSTALL])
