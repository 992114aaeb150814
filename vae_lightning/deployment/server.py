"""A detector as a service: requests in, scores out, by the same ``Scorer`` as everywhere.

The event loop reads and writes; one thread scores, request after request. Whoever finds too many there is sent away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import UserError
from . import answers, bodies
from .admission import Limits, Room, bears
from .meters import Meters
from .scorer import NO_REASONS, Scorer

OPEN = "/live", "/ready"  # to whoever asks, for these say nothing else
Reasons = Annotated[int, Query(ge=1, le=100)]

T = TypeVar("T")


class Service:
    """What each path does.

    Args:
        scorer: The detector.
        limits: What is taken on.
    """

    def __init__(self, scorer: Scorer, limits: Limits) -> None:
        self.scorer, self.limits, self.room = scorer, limits, Room(limits)
        self.meters = Meters(self.room)
        self.worker = ThreadPoolExecutor(1, "scorer")

    async def score(self, request: Request, explain: Annotated[int, Query(ge=0, le=100)] = 0) -> Response:
        """Scores, p-values and decisions of all rows, in their order; or of none.

        The body is ``{"rows": […]}``, the bytes of a CSV, Parquet or Arrow file, an image, or a form of images.
        """
        most = min(self.limits.rows, self.limits.explained) if explain else self.limits.rows
        self._check_explained(explain)

        def work(given: bodies.Samples) -> tuple[bytes, str]:
            found = self.scorer.run(given.x)
            self.meters.scored(found)
            more = self.scorer.explain(given.x).appended(explain) if explain else {}
            return answers.answered({**found, **more}, given.notes, request.headers.get("accept", ""))

        content, kind = await self._worked(request, most, work)
        return Response(content, media_type=kind)

    async def explain(self, request: Request, k: Reasons = 5, heatmap: bool = False) -> Response:
        """The k first reasons of each row's score; a heat map of each image."""
        self._check_explained(k)
        content = await self._worked(
            request,
            min(self.limits.rows, self.limits.explained),
            lambda given: answers.explained(self.scorer.explain(given.x), k, heatmap and given.x.ndim == 4),
        )
        return Response(content, media_type=bodies.JSON)

    async def metadata(self) -> Response:
        """What the detector takes and gives; none of the calibration samples that its file holds."""
        about = {key: value for key, value in self.scorer.manifest.to_json().items() if key != "canary"}
        return Response(answers.as_json({**about, "limits": self.limits._asdict()}), media_type=bodies.JSON)

    async def live(self) -> dict[str, bool]:
        """That the process answers."""
        return {"live": True}

    async def ready(self) -> dict[str, Any]:
        """That the stored samples get the scores they were stored with: not in line, for a full one is no fault."""
        canary = self.scorer.manifest.canary
        try:
            await asyncio.to_thread(self.scorer.check)
        except UserError as error:
            raise HTTPException(503, str(error)) from None
        return {"ready": True, "canary": 0 if canary is None else len(canary.score)}

    async def metrics(self) -> Response:
        """Counts in Prometheus' format."""
        return Response(self.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _check_explained(self, k: int) -> None:
        if k and self.scorer.detector is None:
            raise HTTPException(501, NO_REASONS)

    async def _worked(self, request: Request, most: int, work: Callable[[bodies.Samples], T]) -> T:
        """What ``work`` makes of a request's samples, in the thread that scores."""
        with self.room.admitted(), self.room.body(request) as body:
            kind = _kind(request)
            content = await body.read()
            files = await _files(request, content, self.limits.rows) if kind == bodies.FORM else []

            def worked() -> T:
                return work(_samples(self.scorer, kind, content, files, most))

            return await asyncio.get_running_loop().run_in_executor(self.worker, worked)


def _kind(request: Request) -> str:
    """The media type of a body that is taken."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "Content-Encoding: send the body as it is, not compressed")
    if kind not in (bodies.JSON, bodies.FORM, *bodies.TABLES) and not kind.startswith("image/"):
        known = ", ".join((bodies.JSON, *bodies.TABLES, "image/*", bodies.FORM))
        raise HTTPException(415, f"Content-Type {kind or 'is missing'}: give one of {known}")
    return kind


async def _files(request: Request, content: bytes, most: int) -> list[bodies.Pair]:
    """The files of a form."""

    async def stream() -> Any:
        yield content

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=most, max_fields=0).parse()
    except (MultiPartException, KeyError) as error:
        raise HTTPException(400, f"the body is not a form with files: {getattr(error, 'message', error)}") from None
    try:
        files = [part for _, part in form.multi_items() if not isinstance(part, str)]
        return [(file.filename or f"file {i}", await file.read()) for i, file in enumerate(files)]
    finally:
        await form.close()


def _samples(scorer: Scorer, kind: str, content: bytes, files: list[bodies.Pair], most: int) -> bodies.Samples:
    if kind == bodies.JSON:
        return bodies.of_json(scorer, content, most)
    if kind in bodies.TABLES:
        return bodies.of_table(scorer, content, bodies.TABLES[kind], most)
    return bodies.of_images(scorer, files if kind == bodies.FORM else [("the body", content)], most)


class Watched:
    """Lets in who bears the token, and counts what is answered."""

    def __init__(self, app: ASGIApp, service: Service, token: str | None) -> None:
        self.app, self.service, self.token = app, service, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        known = scope["path"] in PATHS
        try:
            if scope["path"] in OPEN or bears(scope["headers"], self.token):
                await self.app(scope, receive, sent)
            else:
                error = "the token is missing or wrong: send Authorization: Bearer TOKEN"
                await _error(401, error, {"WWW-Authenticate": "Bearer"})(scope, receive, sent)
        finally:
            seconds = time.perf_counter() - started
            self.service.meters.answered(scope["path"] if known else "other", status, seconds)


PATHS = {
    "/score": "POST",
    "/explain": "POST",
    "/metadata": "GET",
    "/live": "GET",
    "/ready": "GET",
    "/metrics": "GET",
}


def application(scorer: Scorer, limits: Limits | None = None, token: str | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        scorer: The detector.
        limits: What is taken on.
        token: That requests have to bear, but for ``/live`` and ``/ready``; None lets everybody in.
    """
    service = Service(scorer, limits or Limits())
    # no pages of documentation: they would fetch scripts from other hosts
    app = FastAPI(title="vae_lightning", docs_url=None, redoc_url=None)
    for path, method in PATHS.items():
        app.add_api_route(path, getattr(service, path[1:]), methods=[method])
    app.add_middleware(Watched, service=service, token=token)
    app.add_exception_handler(UserError, _refused)
    app.add_exception_handler(StarletteException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    """What is wrong, in one line."""
    if isinstance(error, StarletteException):
        return _error(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, RequestValidationError):
        wrong = error.errors()[0]
        return _error(422, f"{wrong['loc'][-1]} = {wrong.get('input')}: {wrong['msg']}")
    rows = {"faults": error.faults} if isinstance(error, bodies.BadRowsError) else {}
    return _error(413 if isinstance(error, bodies.TooManyError) else 422, str(error), more=rows)


def _error(status: int, message: str, headers: dict[str, str] | None = None, more: Any = None) -> Response:
    content = answers.as_json({"error": message, **(more or {})})
    return Response(content, status, headers, media_type=bodies.JSON)
