"""The questions of the page against formulas in numpy, and the time of a search."""

from dataclasses import replace

import numpy as np
import pytest

from data_modules.faults import SampleFault
from kelip_lightning.search.engine import SearchEngine, time_searches
from tests.unit.kelip_lightning.search.conftest import COLOURS
from tests.unit.kelip_lightning.stand_in_encoders import expected_row, letters, png


def cosines(engine: SearchEngine, query: np.ndarray) -> np.ndarray:
    rows = np.stack([expected_row(COLOURS[key]) for key in engine.collection.keys])
    return rows @ query / np.linalg.norm(query)


def test_by_text(engine: SearchEngine) -> None:
    found = engine.by_text("red apple")
    expected = cosines(engine, letters("red apple"))
    assert [hit.row for hit in found] == np.argsort(-expected).tolist()
    np.testing.assert_allclose([hit.score for hit in found], np.sort(expected)[::-1], atol=1e-5)


def test_by_picture(engine: SearchEngine) -> None:
    answer = engine.by_picture(png((240, 10, 10)))
    assert engine.collection.keys[answer.pictures[0].row] == "red.png"
    for language, texts in {"ko": ["빨강", "초록", "파랑"], "en": ["red", "<b>green</b>", "blue"]}.items():
        cosine = {text: float(letters(text) @ expected_row((240, 10, 10))) for text in texts}
        found = answer.captions[language]
        assert dict(found) == pytest.approx(cosine, abs=1e-6)
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_by_picture__no_image(engine: SearchEngine) -> None:
    with pytest.raises(SampleFault, match="no image"):
        engine.by_picture(b"text")


def test_by_pair(engine: SearchEngine) -> None:
    answer = engine.by_pair("빨강", "red", k=2)
    assert [hit.row for hit in answer.first] == np.argsort(-cosines(engine, letters("빨강")))[:2].tolist()
    assert [hit.row for hit in answer.second] == np.argsort(-cosines(engine, letters("red")))[:2].tolist()
    assert answer.both == {hit.row for hit in answer.first} & {hit.row for hit in answer.second}
    assert answer.similarity == pytest.approx(letters("빨강") @ letters("red"), abs=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.7, 2.0])
def test_by_analogy(engine: SearchEngine, scale: float) -> None:
    row = engine.collection.keys.index("red.png")
    query = expected_row(COLOURS["red.png"]) + scale * (letters("blue") - letters("red"))
    order = [one for one in np.argsort(-cosines(engine, query)) if one != row]
    found = engine.by_analogy(engine.collection.rows[row], "red", "blue", scale, own_row=row)
    assert [hit.row for hit in found] == order


def test_time__ten_thousand_pictures_in_less_than_200_milliseconds(engine: SearchEngine) -> None:
    rows = np.random.default_rng(0).normal(size=(10_000, 6)).astype(np.float32)
    times = time_searches(replace(engine, collection=replace(engine.collection, rows=rows)))
    assert [one.pictures for one in times] == [10_000, 10_000]
    assert max(one.median for one in times) < 200
