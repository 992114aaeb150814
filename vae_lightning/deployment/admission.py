"""Who may come in: so many requests at a time, with bodies of so many bytes, counted while they arrive."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fastapi import HTTPException, Request

RETRY_AFTER = {"Retry-After": "1"}  # seconds


class Limits(NamedTuple):
    """What a server takes on.

    Attributes:
        body: Bytes of a request.
        rows: Of a request.
        explained: Rows of a request whose scores are explained, which takes many passes through the network.
        requests: That are read, wait or are scored at a time.
        waiting: Bytes of all their bodies together.
        seconds: In which a body has to arrive.
    """

    body: int = 32 * 2**20
    rows: int = 100_000
    explained: int = 1000
    requests: int = 256
    waiting: int = 512 * 2**20
    seconds: float = 60.0


class Room:
    """Counts the requests inside, and the bytes of their bodies; for one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.requests, self.bytes = limits, 0, 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Within, a request is inside.

        Raises:
            HTTPException: 503 when there is no room for it.
        """
        if self.requests >= self.limits.requests:
            raise HTTPException(503, f"{self.requests} requests are waiting already: try again", RETRY_AFTER)
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def body(self, request: Request) -> Iterator[Body]:
        """Within, the bytes of a request's body count as waiting."""
        body = Body(self, request)
        try:
            yield body
        finally:
            self.bytes -= body.size


class Body:
    """The bytes of a request, as long as there are not too many.

    Attributes:
        size: How many have arrived.
    """

    def __init__(self, room: Room, request: Request) -> None:
        self.room, self.request, self.size = room, request, 0

    async def read(self) -> bytes:
        """All of them.

        Raises:
            HTTPException: 413 when there are too many, before they are read if the header says so; 408 when they are
                too long in coming; 503 when others wait with as many.
        """
        limits, declared = self.room.limits, self.request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limits.body:
            raise self._too_large(f"{int(declared):,}")
        try:
            return await asyncio.wait_for(self._joined(), limits.seconds)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the body has not arrived in {limits.seconds:g} s") from None

    async def _joined(self) -> bytes:
        return b"".join([chunk async for chunk in self._chunks()])

    async def _chunks(self) -> AsyncIterator[bytes]:
        room = self.room
        async for chunk in self.request.stream():
            self.size += len(chunk)
            room.bytes += len(chunk)
            if self.size > room.limits.body:
                raise self._too_large(f"more than {room.limits.body:,}")
            if room.bytes > room.limits.waiting:
                raise HTTPException(503, f"{room.bytes:,} bytes are waiting already: try again", RETRY_AFTER)
            yield chunk

    def _too_large(self, size: str) -> HTTPException:
        most = f"a body has at most {self.room.limits.body:,} bytes, and this one has {size}"
        return HTTPException(413, f"{most}: send the rows in several requests", {"Connection": "close"})


def bears(headers: list[tuple[bytes, bytes]], token: str | None) -> bool:
    """Whether a request's headers have the token, compared in a time that says nothing of it; None lets all in."""
    if token is None:
        return True
    given = dict(headers).get(b"authorization", b"")
    return hmac.compare_digest(given, f"Bearer {token}".encode())
