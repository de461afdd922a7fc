"""The page of `kelip search`, with gradio: nothing on it is loaded from another host."""

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"  # before gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import fastapi
import gradio
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images.decoding import decode_image
from kelip_lightning.drawing.fonts import FONT_FILE
from kelip_lightning.search.engine import RESULTS, SearchEngine
from kelip_lightning.search.results import (
    STYLE,
    first_pictures_html,
    note_html,
    pair_note_html,
    picture_answer_html,
    pictures_html,
)

TITLE = "kelip search"
THUMBNAIL = 256
"""Longest side of a picture on the page, in pixels."""
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)
"""Content-Security-Policy: browsers refuse every request to another host."""
FONTS = ("system-ui", "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans CJK KR", "Nanum Square", "sans-serif")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]", "::1")

Handler = Callable[..., Any]


def build_app(engine: SearchEngine, host: str) -> fastapi.FastAPI:
    """The web application: the page at `/`, pictures at `/pictures/ROW`.

    Args:
        engine: Answers the questions.
        host: Address that it is served at; on a local one, requests under other names are refused.
    """
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host in LOCAL_HOSTS:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
    app.middleware("http")(_with_policy)
    thumbnail = functools.lru_cache(maxsize=4096)(functools.partial(_thumbnail, engine))

    def picture(row: int) -> fastapi.Response:
        if not 0 <= row < len(engine.collection):
            raise fastapi.HTTPException(404)
        try:
            return fastapi.Response(thumbnail(row), media_type="image/png")
        except (SampleFault, OSError) as error:
            raise fastapi.HTTPException(404) from error

    def font() -> fastapi.Response:
        return fastapi.Response(FONT_FILE.read_bytes(), media_type="font/ttf")

    app.get("/pictures/{row}")(picture)
    app.get("/font.ttf")(font)
    return gradio.mount_gradio_app(
        app,
        build_page(engine),
        path="",
        theme=gradio.themes.Default(font=FONTS, font_mono=("monospace",)),
        css=STYLE,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=True,
    )


async def _with_policy(request: fastapi.Request, answer: Handler) -> fastapi.Response:
    response: fastapi.Response = await answer(request)
    response.headers["Content-Security-Policy"] = POLICY
    return response


def _thumbnail(engine: SearchEngine, row: int) -> bytes:
    image = decode_image(engine.collection.image(row))
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def build_page(engine: SearchEngine) -> gradio.Blocks:
    """The page: four tabs."""
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.HTML(f"<h2>{TITLE}</h2>")
        with gradio.Tab("Words · 낱말"):
            _add_words(engine)
        with gradio.Tab("Two words · 두 낱말"):
            _add_pair(engine)
        with gradio.Tab("Picture · 그림"):
            _add_picture(engine)
        with gradio.Tab("Picture − word + word"):
            _add_analogy(engine)
    return page


def _add_words(engine: SearchEngine) -> None:
    collection = engine.collection

    def answer(text: str) -> str:
        if not text.strip():
            return first_pictures_html(collection, RESULTS)
        return pictures_html(collection, _told(engine.by_text, text.strip()))

    with gradio.Row():
        text = gradio.Textbox(
            show_label=False, placeholder="사과, a red apple, ...", elem_id="words", scale=5, container=False
        )
        button = gradio.Button("Search · 검색", variant="primary", elem_id="words-go", scale=1, min_width=120)
    result = gradio.HTML(answer(""), elem_id="words-result")
    _connect([text.submit, button.click], answer, [text], result)


def _add_pair(engine: SearchEngine) -> None:
    collection = engine.collection

    def answer(first: str, second: str) -> tuple[str, str, str]:
        if not (first.strip() and second.strip()):
            return note_html("Type a word on each side."), "", ""
        found = _told(engine.by_pair, first.strip(), second.strip())
        left, right = (pictures_html(collection, hits, found.both) for hits in (found.first, found.second))
        return pair_note_html(found), left, right

    with gradio.Row():
        first = gradio.Textbox(label="한국어", placeholder="집", elem_id="pair-first")
        second = gradio.Textbox(label="English", placeholder="a house", elem_id="pair-second")
    button = gradio.Button("Compare · 비교", variant="primary", elem_id="pair-go")
    note = gradio.HTML(elem_id="pair-note")
    with gradio.Row():
        left = gradio.HTML(elem_id="pair-left")
        right = gradio.HTML(elem_id="pair-right")
    _connect([first.submit, second.submit, button.click], answer, [first, second], [note, left, right])


def _add_picture(engine: SearchEngine) -> None:
    def answer(file: str | None) -> str:
        if file is None:
            return ""
        found = _told(engine.by_picture, Path(file).read_bytes())
        return picture_answer_html(engine.collection, found)

    picture = _picture_box("picture")
    result = gradio.HTML(elem_id="picture-result")
    _connect([picture.change], answer, [picture], result)


def _add_analogy(engine: SearchEngine) -> None:
    collection = engine.collection

    def answer(file: str | None, words: str, minus: str, plus: str, scale: float) -> str:
        if not (minus.strip() and plus.strip()) or (file is None and not words.strip()):
            return note_html("Drop a picture or describe one, and type both words.")
        used, row = "", None
        if file is None:
            hits = _told(engine.by_text, words.strip(), 1)
            row, used = hits[0].row, note_html("From this picture:") + pictures_html(collection, hits)
            query = collection.rows[row]
        else:
            query = _told(engine.embed_picture, Path(file).read_bytes())
        found = _told(engine.by_analogy, query, minus.strip(), plus.strip(), scale, row)
        return used + note_html(f"Nearest to picture + {scale:g} · (plus − minus):") + pictures_html(collection, found)

    with gradio.Row():
        picture = _picture_box("analogy-picture")
        with gradio.Column():
            words = gradio.Textbox(
                label="or words that find a picture", placeholder="a red car", elem_id="analogy-words"
            )
            minus = gradio.Textbox(label="− word", placeholder="빨간색", elem_id="analogy-minus")
            plus = gradio.Textbox(label="+ word", placeholder="파란색", elem_id="analogy-plus")
            scale = gradio.Slider(0, 2, value=1, step=0.1, label="weight of the words (λ)")
    button = gradio.Button("Search · 검색", variant="primary", elem_id="analogy-go")
    result = gradio.HTML(elem_id="analogy-result")
    inputs = [picture, words, minus, plus, scale]
    _connect([words.submit, minus.submit, plus.submit, button.click], answer, inputs, result)


def _picture_box(name: str) -> gradio.Image:
    # As a file, so that the model's own preprocessing decodes it.
    return gradio.Image(
        type="filepath",
        sources=["upload", "clipboard"],
        label="picture",
        height=220,
        image_mode=None,
        format="png",
        buttons=[],
        elem_id=name,
    )


def _connect(triggers: list[Any], answer: Handler, inputs: list[Any], outputs: Any) -> None:
    gradio.on(triggers, answer, inputs, outputs, show_progress="minimal", api_visibility="private")


def _told(question: Handler, *values: Any) -> Any:
    """The answer; a mistake of the user's becomes a message on the page."""
    try:
        return question(*values)
    except (DataError, ValueError) as error:
        detail = error.detail if isinstance(error, SampleFault) else str(error)
        raise gradio.Error(detail, print_exception=False) from error
