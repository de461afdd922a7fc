"""`kelip show-config`."""

import pytest

from kelip_lightning.cli import main
from tests.paths import ROOT


def test_show_config__paper_scale_has_the_parameters_of_the_released_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", str(ROOT / "experiments" / "kelip_b32" / "contrastive.yaml")]) == 0
    shown = capsys.readouterr().out
    for line in ("image_tower: 87849216", "text_tower: 88726016", "logit_scale: 1", "all: 176575233"):
        assert f" {line}\n" in shown


@pytest.mark.parametrize("verb", ["show-config", "plan"])
def test_resume__is_refused_where_nothing_is_trained(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, str(ROOT / "experiments" / "emoji" / "mae.yaml"), "--resume", "auto"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --resume" in capsys.readouterr().err
