"""What a server counts, for Prometheus."""

from __future__ import annotations

from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10


class Meters:
    """Of one server.

    Args:
        room: Whose ``requests`` and ``bytes`` are inside.
    """

    def __init__(self, room: Any) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        made: dict[str, Any] = {"namespace": "vae_lightning", "registry": self.registry}
        self.requests = Counter("requests", "Answered requests.", ["path", "status"], **made)
        self.seconds = Histogram("request_seconds", "From head to answer.", ["path"], buckets=SECONDS, **made)
        self.rows = Counter("rows", "Scored rows.", **made)
        self.anomalies = Counter("anomalies", "Rows that raised an alarm.", **made)
        # of rows as in training they are 1/2 on average: less of it is a first sign that the data have changed
        self.p_values = Counter("p_values", "Sum of the p-values of scored rows.", **made)
        Gauge("requests_inside", "Requests that are read, wait or are scored.", **made).set_function(
            lambda: room.requests
        )
        Gauge("bytes_inside", "Bytes of their bodies.", **made).set_function(lambda: room.bytes)

    def scored(self, answer: dict[str, np.ndarray]) -> None:
        """Count the rows of an answer."""
        self.rows.inc(len(answer["score"]))
        self.anomalies.inc(int(answer["anomaly"].sum()))
        self.p_values.inc(float(answer["p_value"].sum(dtype=np.float64)))

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self.registry)
