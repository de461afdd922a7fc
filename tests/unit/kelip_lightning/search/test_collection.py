"""The index of a collection, and its captions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_modules.errors import DataError
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.embed_sources import DataChoice
from kelip_lightning.search.collection import CaptionChoice, Collection, default_index, open_pictures
from tests.unit.kelip_lightning.search.conftest import COLOURS
from tests.unit.kelip_lightning.stand_in_encoders import expected_row, letters, png, stand_in

Collect = Callable[[Encoders], Collection]


def test_rows_and_captions(collect: Collect) -> None:
    found = collect(stand_in())
    assert found.keys == sorted(COLOURS)
    np.testing.assert_allclose(found.rows, [expected_row(COLOURS[key]) for key in found.keys], atol=1e-6)
    assert found.captions["ko"].texts == ["파랑", "초록", "빨강"]
    np.testing.assert_allclose(
        found.captions["ko"].rows, [letters(text) for text in ("파랑", "초록", "빨강")], atol=1e-6
    )
    red = found.keys.index("red.png")
    assert (found.title(red), found.title(found.keys.index("white.png"))) == ("빨강 · red", "white.png")
    assert found.image(red) == png(COLOURS["red.png"])


def test_index__only_new_pictures_are_embedded(collect: Collect, folder: Path) -> None:
    collect(stand_in())
    (folder / "black.png").write_bytes(png((0, 0, 0)))
    sizes: list[int] = []
    found = collect(stand_in(on_images=sizes.append))
    assert sizes == [1]
    assert found.keys == sorted({*COLOURS, "black.png"})
    assert found.image(0) == png((0, 0, 0))


def test_index__of_another_model_is_made_anew(collect: Collect) -> None:
    collect(stand_in())
    found = collect(stand_in(-1.0))
    np.testing.assert_allclose(found.rows, [expected_row(COLOURS[key], -1.0) for key in found.keys], atol=1e-6)
    np.testing.assert_allclose(
        found.captions["en"].rows, [-letters(text) for text in found.captions["en"].texts], atol=1e-6
    )


def test_broken_pictures__keep_the_others_in_place(collect: Collect, folder: Path) -> None:
    for number in range(40):
        (folder / f"m{number}.png").write_bytes(png((number, 1, 1)))
    (folder / "bad.png").write_bytes(b"no image")
    found = collect(stand_in())
    assert "bad.png" not in found.keys
    assert [found.image(row) for row in range(3)] == [(folder / key).read_bytes() for key in found.keys[:3]]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("key,a\nred.png,b\n", {}, r"has no column ko or en; name its columns with --caption-columns"),
        ("key,ko\nno.png,b\n", {}, r"no key of the 4 samples"),
        ("key,ko\nred.png,b\n", {"ko": "kor"}, r"no column 'kor'"),
    ],
)
def test_captions_file__refused(folder: Path, text: str, columns: dict[str, str], message: str) -> None:
    file = folder.parent / "wrong.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        open_pictures(DataChoice(data=str(folder)), CaptionChoice(file=str(file), columns=columns))


def test_caption_columns__of_a_folder(folder: Path) -> None:
    with pytest.raises(DataError, match="--caption-columns names columns of a table"):
        open_pictures(DataChoice(data=str(folder)), CaptionChoice(columns={"ko": "ko"}))


def test_captions_of_an_evaluation_set() -> None:
    found = open_pictures(DataChoice(data="experiments/emoji/contrastive.yaml", set_name="flags"))
    place = next(place for place, key in enumerate(found.items.keys) if key.endswith("1f1f0-1f1f7"))
    assert (found.captions["ko"][place], found.captions["en"][place]) == (["깃발: 대한민국"], ["flag: South Korea"])


def test_default_index__one_for_each_model_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {default_index(model, data, None) for model in ("emoji", "ViT-B/32") for data in ("a", "b")}
    assert len(files) == 4
    assert {file.parent for file in files} == {tmp_path / "kelip" / "search"}
    assert default_index("emoji", str(Path("a").resolve()), None) == default_index("emoji", "a", None)
