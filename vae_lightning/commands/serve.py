"""``vae-lightning serve``: a detector as a service."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from ..errors import UserError
from ..studies.parser import StudyParser

TOKEN = "VAE_LIGHTNING_TOKEN"
LOCAL = "127.0.0.1", "::1", "localhost"
DRAIN = 30  # seconds that requests have to be answered in, once it is to stop


def main(args: list[str]) -> int:
    """Serve until SIGTERM or Ctrl-C; what has been asked before is answered; the exit code is 0.

    Raises:
        UserError: When the detector, the port or the token is not what it should be, or a package is missing.
    """
    options = parser().parse_args(args)
    try:
        import uvicorn

        from ..deployment.admission import Limits
        from ..deployment.server import application
    except ImportError as error:
        raise UserError(f"serve needs {error.name}: pip install 'vae_lightning[serve]'") from None
    from ..deployment.scorer import Scorer

    token = _token(options.token_file)
    limits = Limits(body=_positive("max_megabytes", options.max_megabytes) * 2**20)
    limits = limits._replace(rows=_positive("max_rows", options.max_rows), waiting=max(limits.waiting, limits.body))
    limits = limits._replace(requests=_positive("max_requests", options.max_requests))
    if not 0 <= options.port < 2**16:
        raise UserError(f"--port {options.port}: ports are 0 to 65535")
    with _bound(options.host, options.port) as listening:
        scorer = Scorer(options.detector, options.threads)
        scorer.check()
        config = uvicorn.Config(
            application(scorer, limits, token),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN,
        )
        listening.listen(config.backlog)
        host, port = listening.getsockname()[:2]
        print(f"detector     {options.detector} ({scorer.manifest.model})")
        print(f"serving      http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        if token is None and host not in LOCAL:
            print(f"note: whoever reaches {host} may ask: give --token_file, or set {TOKEN}", file=sys.stderr)
        server = uvicorn.Server(config)
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again, once all has been answered
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        server.run(sockets=[listening])
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address, before anything else takes time."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError as error:
        raise UserError(f"--host {host}: there is no such address ({error.strerror})") from error
    try:
        bound.bind(address)
        bound.listen(1)  # that another process listens there may only show now
    except OSError as error:
        bound.close()
        raise UserError(f"--port {port}: {host} cannot be listened at ({error.strerror}): give another port") from error
    return bound


def _token(file: str | None) -> str | None:
    """The secret that requests have to bear."""
    if file is None:
        token = os.environ.get(TOKEN)
        if token is not None and not token.strip():
            raise UserError(f"{TOKEN} is empty: give a token, or unset it")
    else:
        try:
            token = Path(file).read_text()
        except UnicodeDecodeError:
            raise UserError(f"--token_file {file}: is not text") from None
        if not token.strip():
            raise UserError(f"--token_file {file}: is empty: write a token into it")
    if token is not None and not (token := token.strip()).isascii():
        raise UserError("the token holds what no header may hold: give letters and digits")
    return token


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise UserError(f"--{name} {value}: give at least 1")
    return value


def parser() -> StudyParser:
    """What ``serve --help`` shows."""
    parser = StudyParser(
        "serve",
        description="Serve a detector over HTTP: POST /score and /explain, GET /metadata, /live, /ready and /metrics. "
        f"Requests must have the token in --token_file or in the variable {TOKEN}; without either, all are answered.",
    )
    add = parser.add_argument
    add("--detector", required=True, help="an exported file, a .ckpt file, a run's folder, best or last")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    add("--port", type=int, default=8000, help="0 for any free one (default: 8000)")
    add("--token_file", help="a file that contains the token and nothing else")
    add("--threads", type=int, help="of onnxruntime (default: as many as there are cores)")
    add("--max_megabytes", type=int, default=32, help="per request (default: 32)")
    add("--max_rows", type=int, default=100_000, help="per request (default: 100000)")
    add("--max_requests", type=int, default=256, help="in progress or waiting at a time (default: 256)")
    return parser
