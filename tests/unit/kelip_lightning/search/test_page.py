"""The page's web application: what it serves, to whom, and that it names no other host."""

import io
import re

import pytest
from PIL import Image

from kelip_lightning.search.engine import SearchEngine
from tests.unit.kelip_lightning.search.conftest import COLOURS

gradio = pytest.importorskip("gradio", reason="gradio is not installed (pip install 'kelip-lightning[demo]')")


@pytest.fixture
def client(engine: SearchEngine) -> object:
    from starlette.testclient import TestClient

    from kelip_lightning.search.page import build_app

    return TestClient(build_app(engine, "127.0.0.1"), base_url="http://localhost")


def test_page__loads_nothing_from_other_hosts(client: object) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?://[^\"]+)", answer.text)
    assert [address for address in loaded if not address.startswith("http://localhost")] == []


def test_pictures(client: object, engine: SearchEngine) -> None:
    for row, key in enumerate(engine.collection.keys):
        answer = client.get(f"/pictures/{row}")
        assert Image.open(io.BytesIO(answer.content)).convert("RGB").getpixel((0, 0)) == COLOURS[key]
    assert client.get("/pictures/4").status_code == client.get("/pictures/-1").status_code == 404


def test_other_host_names__are_refused(client: object) -> None:
    assert client.get("/pictures/0", headers={"host": "attacker.example"}).status_code == 400
