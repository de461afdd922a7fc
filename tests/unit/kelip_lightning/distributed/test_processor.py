"""Flags of the processor."""

from pathlib import Path

import pytest

from kelip_lightning.distributed import processor
from kelip_lightning.distributed.processor import cpu_features, has_bfloat16


def test_cpu_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16\n\nprocessor : 1\n", encoding="utf-8")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert cpu_features(file) == {"fpu", "avx512_bf16"}
    assert cpu_features(tmp_path / "none") == frozenset()
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert cpu_features(file) == frozenset()


@pytest.mark.parametrize(
    ("flags", "expected"), [({"avx512_bf16"}, True), ({"amx_bf16", "avx2"}, True), ({"avx2", "avx512f"}, False)]
)
def test_has_bfloat16(flags: set[str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "cpu_features", lambda: flags)
    assert has_bfloat16() is expected
