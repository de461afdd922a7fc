"""Pushing to a stand-in of the Hugging Face Hub on loopback."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest

from kelip_lightning.errors import ExportError
from kelip_lightning.interchange import hub


class _Hub(BaseHTTPRequestHandler):
    """Takes repositories of the organisation `lab` and one commit each; refuses any other with 403."""

    files: ClassVar[dict[str, bytes]] = {}
    created: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else self._chunks()
        if self.path == "/api/repos/create":
            request = json.loads(body)
            if request.get("organization") != "lab":
                self._answer({"error": "You do not have the rights to create a model under this namespace"}, 403)
                return
            self.created.append(request)
            self._answer({"url": f"https://huggingface.co/lab/{request['name']}"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            found = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            self._answer({"files": [one | {"shouldIgnore": False} for one in found]})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": "https://huggingface.co/lab/emoji/commit/1", "commitOid": "1", "hookOutput": ""})

    def do_GET(self) -> None:
        self._answer({"error": "Repository not found"}, 404)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    handler = type("Hub", (_Hub,), {"files": {}, "created": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        hub,
        "HfApi",
        lambda: huggingface_hub.HfApi(endpoint=address, token="hf_of_a_test"),
    )
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "visual").mkdir()
    (tmp_path / "README.md").write_text("# 사과\n", encoding="utf-8")
    (tmp_path / "visual" / "model.onnx").write_bytes(b"\0weights")
    return tmp_path


def test_push__creates_the_repository_and_uploads_every_file(stand_in: type[_Hub], folder: Path) -> None:
    assert hub.push_folder(folder, "lab/emoji", private=True) == "https://huggingface.co/lab/emoji/commit/1"
    assert [(one["name"], one.get("private") or one["visibility"] == "private") for one in stand_in.created] == [
        ("emoji", True)
    ]
    assert stand_in.files == {"README.md": "# 사과\n".encode(), "visual/model.onnx": b"\0weights"}


def test_push__refused_by_the_hub(stand_in: type[_Hub], folder: Path) -> None:
    with pytest.raises(ExportError, match=r"could not be pushed to other/emoji .*HF_TOKEN .* may write to other"):
        hub.push_folder(folder, "other/emoji", private=False)
    assert stand_in.files == {}


def test_push__no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match="is written, but could not be pushed"):
        hub.push_folder(folder, "lab/emoji", private=False)


@pytest.mark.parametrize("name", ["emoji", "lab/emoji/x", "lab/", "/emoji", "lab/em oji", "랩/이모지"])
def test_name__is_checked_before_anything_is_written(name: str) -> None:
    with pytest.raises(ExportError, match="is not the name of a repository; give ORG/NAME"):
        hub.check_repository_name(name)
