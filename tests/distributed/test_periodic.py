"""An evaluation that fails on rank zero, which alone evaluates: the other rank neither waits nor goes on."""

import json
from pathlib import Path

import pytest

from tests.distributed.periodic_ranks import BREAKS_AT, run


@pytest.mark.distributed
def test_two_processes__broken_embeddings_end_both_at_one_step_with_one_sentence(tmp_path: Path) -> None:
    run(tmp_path)
    found = [json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert found[0] == found[1]
    assert (found[0]["error"], found[0]["step"]) == ("NonFiniteEmbeddingsError", BREAKS_AT)
    assert f"step {BREAKS_AT}: 3 of 7 image embeddings are not finite" in found[0]["message"]
