"""Results as HTML."""

from kelip_lightning.search.engine import SearchEngine
from kelip_lightning.search.results import captions_html, first_pictures_html, picture_answer_html, pictures_html
from tests.unit.kelip_lightning.stand_in_encoders import png


def test_pictures__captions_are_escaped(engine: SearchEngine) -> None:
    html = pictures_html(engine.collection, engine.by_text("green"))
    assert "초록 · &lt;b&gt;green&lt;/b&gt;" in html
    assert "<b>" not in html
    assert html.count("<figure") == 4


def test_pictures__shared_ones_are_framed(engine: SearchEngine) -> None:
    hits = engine.by_text("green")
    html = pictures_html(engine.collection, hits, [hits[1].row])
    figures = html.split("<figure")[1:]
    assert ["kelip-both" in figure for figure in figures] == [False, True, False, False]


def test_captions__both_languages() -> None:
    html = captions_html({"ko": [("사과", 0.51)], "en": [("<apple>", 0.25)]})
    assert html.index("한국어") < html.index("사과") < html.index("English") < html.index("&lt;apple&gt;")
    assert "0.51" in html


def test_picture_answer__without_captions(engine: SearchEngine) -> None:
    from dataclasses import replace

    bare = replace(engine, collection=replace(engine.collection, captions={}))
    assert "--captions FILE" in picture_answer_html(bare.collection, bare.by_picture(png((1, 1, 1))))
    assert "4 pictures" in first_pictures_html(bare.collection, 2)
