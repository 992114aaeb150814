"""A server under load: latency, rows a second beside the bare onnxruntime, and whether its memory grows.

    python benchmarks/serve_load.py --out results/serve_load.json

The server is a process of its own; the clients are another, and share its cores. Payments are sent as JSON and as
Parquet, by 1 and by 200 clients, each of which sends its next request once it has the last answer. The long run, of 200
clients with 10 rows a request, is at least what one request a second and client's day comes to in an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from serving import fastest, finished, load, machine, payments, resident, rows_per_second, served, write_detector

from vae_lightning.deployment.manifest import INPUT
from vae_lightning.deployment.scorer import Scorer

CLIENTS = 200


def body(rows: int, kind: str) -> tuple[bytes, str]:
    """A request's content, and the header that says what it is."""
    table = payments(rows, 7)
    if kind == "Parquet":
        table.to_parquet(out := io.BytesIO())
        return out.getvalue(), "Content-Type: application/vnd.apache.parquet"
    return b'{"rows": ' + table.to_json(orient="records").encode() + b"}", "Content-Type: application/json"


async def asked(url: str, clients: int, seconds: float, rows: int, kind: str) -> dict[str, Any]:
    """What so many clients see that ask for so long, each over a connection of its own."""
    content, kind_line = body(rows, kind)
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /score HTTP/1.1\r\nHost: {host}\r\n{kind_line}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    until = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (started := time.perf_counter()) < until:
            writer.write(head + content)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(answer.partition("content-length: ")[2].partition("\r\n")[0]))
            latencies.append(time.perf_counter() - started)
            statuses[int(answer.split()[1])] += 1
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - started
    p50, p99 = (1000 * float(seconds) for seconds in np.quantile(latencies, [0.5, 0.99]))
    return {
        "clients": clients,
        "rows a request": rows,
        "as": kind,
        "requests": len(latencies),
        "answers": {str(status): count for status, count in statuses.items()},
        "p50 ms": round(p50, 1),
        "p99 ms": round(p99, 1),
        "requests/s": round(len(latencies) / took, 1),
        "rows/s": rows_per_second(rows * statuses[200], took),
    }


def bare(detector: Path, rows: int) -> int:
    """Rows a second of onnxruntime alone, on encoded rows, one thread for each core as the server has."""
    session = onnxruntime.InferenceSession(str(detector), providers=["CPUExecutionProvider"])
    x = Scorer(detector).encode(payments(rows, 7))
    return rows_per_second(rows, fastest(lambda: session.run(None, {INPUT: x}), 20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="of each setting")
    parser.add_argument("--long", type=float, default=100, help="seconds of the long run")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "load before": load()}
    with tempfile.TemporaryDirectory() as temporary:
        detector = write_detector(Path(temporary))
        figures["bare onnxruntime, rows/s"] = {str(rows): bare(detector, rows) for rows in (1, 10, 1000)}
        with served(detector) as (url, pid):
            for settings in ((1, 1, "JSON"), (1, 1000, "JSON"), (1, 1000, "Parquet"), (CLIENTS, 1, "JSON")):
                clients, rows, kind = settings
                figures.setdefault("load", []).append(asyncio.run(asked(url, clients, given.seconds, rows, kind)))
                print(figures["load"][-1], flush=True)
            # the long run: memory after a fifth of it, when all buffers have been filled, and at its end
            warm = asyncio.run(asked(url, CLIENTS, given.long / 5, 10, "JSON"))
            before = resident(pid)
            rest = asyncio.run(asked(url, CLIENTS, given.long * 4 / 5, 10, "JSON"))
            figures["long run"] = rest
            memory = {"after a fifth": round(before, 1), "at the end": round(resident(pid), 1)}
            figures["resident MB"] = {**memory, "requests in between": rest["requests"], "before": warm["requests"]}
    finished(figures, given.out)


if __name__ == "__main__":
    main()
