"""Serves the page on this machine and opens it in the browser."""

import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress

import fastapi
import uvicorn

from data_modules.errors import DataError

DEFAULT_PORT = 7860
_PORTS = 20
"""Ports that are tried after the default one."""


def bind(host: str, port: int | None) -> socket.socket:
    """A socket bound to the port; `None`: to the first free one from `DEFAULT_PORT` on.

    Raises:
        DataError: The port is taken, or the host is no address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise DataError(f"--host {host} is no address of this machine ({error.strerror}); leave it out") from error
    ports = [port] if port is not None else range(DEFAULT_PORT, DEFAULT_PORT + _PORTS)
    reason: OSError | None = None
    for one in ports:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, one))
        except (OSError, OverflowError) as error:
            bound.close()
            reason = OSError(str(error))
            continue
        return bound
    raise DataError(f"{host} port {ports[0]} cannot be used ({reason}); choose another one with --port")


def serve(app: fastapi.FastAPI, bound: socket.socket, opened: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; `opened` is called with the address once the page can be loaded."""
    host, port = bound.getsockname()[:2]
    name = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0", "::") else host
    address = f"http://{name}:{port}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))

    def tell() -> None:
        while not server.started and not server.should_exit:
            threading.Event().wait(0.05)
        if server.started:
            opened(address)

    threading.Thread(target=tell, daemon=True).start()
    with suppress(KeyboardInterrupt):
        server.run(sockets=[bound])


def open_browser(address: str) -> None:
    """Open the page in the user's browser, if there is one."""
    webbrowser.open(address)
