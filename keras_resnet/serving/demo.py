"""Show an export on a web page of this machine: drop images, see what TF Serving would answer."""

import contextlib
import errno
import importlib.util
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .client import MAX_IMAGE
from .demo_answers import Export, opened

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST, PORT = "127.0.0.1", 8000
PAGE = Path(__file__).with_name("demo_page")
"""the folder of the page, with all that it loads"""
_TYPE = "application/octet-stream"
"""the type of a request that holds an image"""
_GRACE = 30
"""seconds that an image has to be answered after an interrupt"""


def demo(
    target: str | os.PathLike[str],
    *,
    host: str = HOST,
    port: int = PORT,
    started: Callable[[str], object] = print,
) -> NoReturn:
    """Serve a page that classifies images by an export, until it is interrupted.

    The answers are those of TensorFlow's C++ loader, as TF Serving gives them, in a process of its
    own. Images stay in memory. The page loads nothing from elsewhere.

    A SavedModel is a program: run only those you trust, after `check`.

    Args:
        target: an export: a version, or the folder of its versions, of which the newest answers.
        host: the address to listen on. The default can be reached from this machine only.
        port: the port to listen on; 0 for any that is free.
        started: is called with the URL of the page when it can be opened.

    Raises:
        KeyboardInterrupt: it was interrupted.
        ValueError: `target` is not an export that takes encoded images, `host` or `port` cannot be
            used, or a package is not installed.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} must be installed: pip install 'keras-residual[demo]'"
        )
    import uvicorn

    with contextlib.closing(_listen(host, port)) as listening, opened(target) as export:
        address, used, *_ = listening.getsockname()
        config = uvicorn.Config(
            application(export, allowed_hosts(address)),
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
        started(f"http://{_in_url(address)}:{used}")
        uvicorn.Server(config).run(sockets=[listening])
        # Only an interrupt ends the server. Where the process began with it ignored, as in the
        # background of a shell, uvicorn returns.
        raise KeyboardInterrupt


def application(export: Export, hosts: Sequence[str]) -> "Starlette":
    """Return the web application of the page.

    Args:
        export: what answers.
        hosts: the names of this server by which it may be asked; `*` for any.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    async def about(request: "Request") -> "Response":
        return JSONResponse(
            {
                "name": export.name,
                "version": export.version,
                "has_heat_map": export.has_heat_map,
                "max_bytes": MAX_IMAGE,
            }
        )

    async def answer(request: "Request") -> "Response":
        try:
            # A script of another site can send this type only after it has been allowed to.
            if request.headers.get("content-type") != _TYPE:
                return Response(status_code=415)
            # The body is the image as it is: forms are written to temporary files.
            image = await request.body()
            file = request.query_params.get("file", "IMAGE")
            return JSONResponse(asdict(await run_in_threadpool(export.answer, image, file)))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads

    return Starlette(
        routes=[
            Route("/export", about),
            Route("/answer", answer, methods=["POST"]),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        max_body_size=MAX_IMAGE,
    )


def allowed_hosts(address: str) -> tuple[str, ...]:
    """Return the names of its host by which a server may be asked; `*` stands for any.

    A site can have a name of its own point to this machine (DNS rebinding). If the loopback
    interface answered to it, scripts of that site could ask.

    Args:
        address: the IP address on which the server listens.
    """
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return ("*",)
    return ("localhost", "127.0.0.1", "[::1]", _in_url(address))


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ValueError: the address cannot be used.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"port is {port}; give one of 1 to {2**16 - 1}, or 0 for any that is free")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"port is {port}, which another program uses; give another, or 0 for any that is"
                " free"
            ) from None
        raise ValueError(
            f"host is {host!r} and port is {port}; {error.strerror or error}"
        ) from None
