"""An S3 server on loopback (moto) that answers late, fails and goes away on demand, in a process of its own.

`python -m kelip_lightning.benchmarks.store.server SECONDS` serves with this delay before each answer to a GET, and
prints its port. It ends with its standard input.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kelip_lightning.errors import BenchmarkError

BUCKET = "data"
CREDENTIALS = {"FSSPEC_S3_KEY": "any", "FSSPEC_S3_SECRET": "any"}
INSTALL = "moto or s3fs is not installed; install both with pip install 'kelip-lightning[store]'"
_CONTROL = "/_control"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong from now on."""

    down_seconds: float = 0.0
    """Connections are closed without an answer."""
    error_share: float = 0.0
    """Share of GETs that are answered with 503."""


@dataclass(slots=True)
class _State:
    gets: int = 0
    bytes_sent: int = 0
    down_until: float = 0.0
    error_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Store:
    """A running server."""

    port: int

    @property
    def url(self) -> str:
        """Address for S3 clients."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Variables that make fsspec's `s3://` mean this server."""
        return CREDENTIALS | {"FSSPEC_S3_ENDPOINT_URL": self.url}

    def counts(self) -> tuple[int, int]:
        """GETs since the last call, and bytes sent for them."""
        with urllib.request.urlopen(f"{self.url}{_CONTROL}/counts") as answer:
            gets, sent = json.load(answer)
        return int(gets), int(sent)

    def fail(self, faults: Faults) -> None:
        """Let go wrong what is asked for."""
        request = urllib.request.Request(f"{self.url}{_CONTROL}/faults", data=json.dumps(asdict(faults)).encode())
        urllib.request.urlopen(request).close()


@contextlib.contextmanager
def serving(delay_seconds: float) -> Iterator[Store]:
    """A server in a process of its own, which ends with the block.

    Raises:
        BenchmarkError: moto is not installed, or the server does not start.
    """
    command = [sys.executable, "-m", __name__, str(delay_seconds)]
    # Without them moto forwards some requests to Amazon.
    environment = os.environ | {"MOTO_ALLOW_NONEXISTENT_REGION": "true", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.strip().isdecimal():
            raise BenchmarkError(INSTALL)
        yield Store(int(line))
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Serve until standard input ends."""
    try:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server
    except ImportError:
        sys.stdout.write("not installed\n")
        return

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as those of a real store

        def log(self, *_: object) -> None:
            """Nothing."""

    application = _with_faults(DomainDispatcherApplication(create_backend_app), float(sys.argv[1]), _State())
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def _with_faults(application: Application, delay: float, state: _State) -> Application:
    """The application behind the delay and the faults."""

    def answered(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith(_CONTROL):
            return _control(state, path, environ, start)
        if time.monotonic() < state.down_until:
            connection: socket.socket = environ["werkzeug.socket"]
            connection.shutdown(socket.SHUT_RDWR)
            return []
        if environ["REQUEST_METHOD"] != "GET":
            return application(environ, start)
        state.gets += 1
        time.sleep(delay)
        if random.random() < state.error_share:
            start("503 Slow Down", [("Content-Length", "0")])
            return []
        content = b"".join(application(environ, start))
        state.bytes_sent += len(content)
        return [content]

    return answered


def _control(state: _State, path: str, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
    content = b""
    if path.endswith("counts"):
        content = json.dumps([state.gets, state.bytes_sent]).encode()
        state.gets = state.bytes_sent = 0
    else:
        wanted = Faults(**json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
        state.down_until, state.error_share = time.monotonic() + wanted.down_seconds, wanted.error_share
    start("200 OK", [("Content-Length", str(len(content)))])
    return [content]


if __name__ == "__main__":
    main()
