"""The vote of a step on one process, and on two with a simulated other rank."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from kelip_lightning.distributed.consensus import StepVote

YES, NO = torch.tensor(True), torch.tensor(False)


def _trainer(world: int) -> Any:
    return SimpleNamespace(world_size=world, strategy=SimpleNamespace(root_device=torch.device("cpu")))


class _Other:
    """The other rank in an all-reduce."""

    def __init__(self, *votes: list[int]) -> None:
        self.votes = list(votes)
        self.received: list[list[int]] = []

    def all_reduce(self, tensor: torch.Tensor, op: Any) -> None:
        assert op == dist.ReduceOp.MAX
        self.received.append(tensor.tolist())
        tensor.copy_(torch.maximum(tensor, torch.tensor(self.votes.pop(0), dtype=tensor.dtype)))


def test_hold__one_process_evaluates_when_asked() -> None:
    vote, state = StepVote(), {"stop": False}
    asked = vote.ask(lambda: state["stop"])
    assert (vote.hold(_trainer(1), YES), vote.hold(_trainer(1), NO)) == (True, False)
    state["stop"] = True
    assert vote.answers(_trainer(1), asked) == [True], "as it is now, not as it was at the vote"


def test_hold__one_collective_for_flag_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    other = _Other([1, 0, 1], [0, 0, 0])
    monkeypatch.setattr(dist, "all_reduce", other.all_reduce)
    vote = StepVote()
    asked = vote.ask(lambda: True, lambda: False)
    assert vote.hold(_trainer(2), NO), "the other's loss is not finite"
    assert vote.answers(_trainer(2), asked) == [True, True]
    assert not vote.hold(_trainer(2), NO)
    assert vote.answers(_trainer(2), asked) == [True, False]
    assert other.received == [[0, 1, 0], [0, 1, 0]]


def test_answers__without_a_new_vote_are_evaluated_now(monkeypatch: pytest.MonkeyPatch) -> None:
    other = _Other([0, 0], [1], [1])
    monkeypatch.setattr(dist, "all_reduce", other.all_reduce)
    vote = StepVote()
    asked = vote.ask(lambda: False)
    vote.hold(_trainer(2), NO)
    assert vote.answers(_trainer(2), asked) == [False]
    assert vote.answers(_trainer(2), asked) == [True], "what has happened since"
    assert vote.answers(_trainer(2), asked, anew=True) == [True]
    assert len(other.received) == 3


def test_answers__each_asker_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    other = _Other([0, 0, 1, 0], [1, 1])
    monkeypatch.setattr(dist, "all_reduce", other.all_reduce)
    vote = StepVote()
    first, second = vote.ask(lambda: True), vote.ask(lambda: False, lambda: False)
    vote.hold(_trainer(2), NO)
    assert vote.answers(_trainer(2), second) == [True, False]
    assert vote.answers(_trainer(2), first) == [True], "reading one's answers leaves the others'"
    assert vote.answers(_trainer(2), second) == [True, True], "evaluated now"
    assert other.received == [[0, 1, 0, 0], [0, 0]]
