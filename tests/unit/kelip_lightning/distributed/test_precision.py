"""Which precision `auto` chooses."""

from pathlib import Path

import pytest
import torch

from kelip_lightning.distributed import precision
from kelip_lightning.distributed.precision import choose_precision, cpu_features


@pytest.mark.parametrize(("name", "expected"), [("32", "32-true"), ("bf16-mixed", "bf16-mixed"), ("bf16-true",) * 2])
def test_choose_precision__as_told(name: str, expected: str) -> None:
    assert choose_precision(name, "cpu") == expected


def test_choose_precision__unknown() -> None:
    with pytest.raises(ValueError, match="'16' must be one of auto, 32, bf16-mixed, bf16-true"):
        choose_precision("16", "cpu")


@pytest.mark.parametrize(
    ("flag", "expected"), [("avx512_bf16", "bf16-mixed"), ("amx_bf16", "bf16-mixed"), ("avx2", "32-true")]
)
def test_choose_precision__auto_on_a_cpu(monkeypatch: pytest.MonkeyPatch, flag: str, expected: str) -> None:
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"sse2", flag}))
    assert choose_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_choose_precision__auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: supported)
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"avx512_bf16"}))
    assert choose_precision("auto", "auto") == expected


def test_cpu_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16\n\nprocessor : 1\n", encoding="utf-8")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert cpu_features(file) == {"fpu", "avx512_bf16"}
    assert cpu_features(tmp_path / "none") == frozenset()
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert cpu_features(file) == frozenset()
