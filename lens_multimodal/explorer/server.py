"""Serve the explorer on this machine's loopback address and open it in the browser."""

import socket
import threading
import webbrowser
from contextlib import closing
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from lens_multimodal.arguments.boundary import public
from lens_multimodal.atlas import Atlas
from lens_multimodal.attach import attach_vision
from lens_multimodal.explorer.guard import LOOPBACK
from lens_multimodal.explorer.web_app import create_app
from lens_multimodal.lens import VisionLens

AT_ONCE = 64
"""Connections; more are refused."""


@public
def serve(
    lens: VisionLens | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    open_browser: bool = True,
    atlas: Atlas | str | Path | None = None,
) -> None:
    """Open the explorer and run it until it is interrupted (Ctrl+C).

    Args:
        lens: None for the embedded tiny trio.
        host: this machine's own address only; from another machine, tunnel: `ssh -L 8000:127.0.0.1:8000 there`.
        port: 0 chooses a free one.
        atlas: as in `create_app`.
    Raises:
        ValueError: a host that other machines could reach, a number that is not a port, or an atlas of another lens.
        FileNotFoundError: a folder without a finished atlas.
        OSError: the port is taken.
    """
    with closing(listen(host, port)) as listening:
        served = attach_vision() if lens is None else lens
        try:
            server = make_server(create_app(served, atlas=atlas))
            if open_browser:
                # The socket already listens, so the page waits for the server instead of failing.
                threading.Thread(target=webbrowser.open, args=[address(listening)], daemon=True).start()
            server.run(sockets=[listening])
        finally:
            if lens is None:
                served.detach()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on a loopback address. Raises: as `serve`."""
    if host not in LOOPBACK:
        raise ValueError(
            f"the explorer has no passwords, so it is served on {', '.join(LOOPBACK)} only, not on {host!r}; from "
            f"another machine use a tunnel: ssh -L 8000:127.0.0.1:8000 <this machine>"
        )
    if isinstance(port, bool) or not 0 <= port <= 65535:
        raise ValueError(f"a port is a number from 0 (any free one) to 65535, got {port}")
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("::1" if host == "::1" else "127.0.0.1", port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"cannot listen on port {port} ({error.strerror}): choose another one") from None
    return listening


def address(listening: socket.socket) -> str:
    """Where a listening socket is found by a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(app: FastAPI) -> uvicorn.Server:
    """The web server of the application, not yet running."""
    config = uvicorn.Config(
        app, access_log=False, limit_concurrency=AT_ONCE, server_header=False, timeout_keep_alive=30
    )
    return uvicorn.Server(config)
