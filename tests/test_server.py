"""The service gives the detector's own answers, names what it refuses, and takes on no more than it said."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from conftest import environment
from fastapi.testclient import TestClient
from PIL import Image
from test_deployment import NAMES, raw, table, table_detector

from vae_lightning.commands import main
from vae_lightning.deployment.admission import Limits
from vae_lightning.deployment.export import export
from vae_lightning.deployment.scorer import Scorer
from vae_lightning.deployment.server import application
from vae_lightning.detection import Detector, Images
from vae_lightning.models import Autoencoder
from vae_lightning.models.networks import Conv
from vae_lightning.scores import NegativeELBO, ReconstructionError

ROWS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``detector.onnx`` and ``detector.ckpt``, the same."""
    folder = tmp_path_factory.mktemp("served")
    detector = table_detector([ReconstructionError(), NegativeELBO()])
    export(detector, folder / "detector.onnx")
    detector.save(folder / "detector.ckpt")
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> TestClient:
    return TestClient(application(Scorer(folder / "detector.onnx")))


@pytest.fixture(scope="module")
def explaining(folder: Path) -> TestClient:
    return TestClient(application(Scorer(folder / "detector.ckpt"), Limits(explained=10)))


def frame(n: int = ROWS) -> pd.DataFrame:
    """Rows with gaps and a word that training never saw."""
    return pd.DataFrame(table(raw(n, 5, shift=0.5)))


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(frame.to_json(orient="records", double_precision=15))


def as_bytes(frame: pd.DataFrame, kind: str) -> bytes:
    out, held = io.BytesIO(), pa.Table.from_pandas(frame, preserve_index=False)
    if kind == "text/csv":
        frame.to_csv(out, index=False)
    elif kind.endswith("parquet"):
        parquet.write_table(held, out)
    else:
        with (pa.ipc.new_stream if kind.endswith("stream") else pa.ipc.new_file)(out, held.schema) as writer:
            writer.write_table(held)
    return out.getvalue()


KINDS = ["text/csv", *(f"application/vnd.apache.{k}" for k in ("parquet", "arrow.stream", "arrow.file"))]


@pytest.mark.parametrize("kind", ["application/json", *KINDS])
def test_answers_are_the_detectors(kind: str, client: TestClient, folder: Path) -> None:
    content = json.dumps({"rows": as_rows(frame())}) if kind.endswith("json") else as_bytes(frame(), kind)
    answer = client.post("/score", content=content, headers={"content-type": kind})
    assert answer.status_code == 200, answer.text
    found, expected = answer.json(), Detector.load(folder / "detector.ckpt")(frame())
    assert found["rows"] == ROWS
    np.testing.assert_allclose(found["score"], expected.score, rtol=1e-5)
    np.testing.assert_allclose(found["NegativeELBO"], expected.each["NegativeELBO"], rtol=1e-5)
    np.testing.assert_array_equal(np.float32(found["p_value"]), expected.p_value)
    assert found["anomaly"] == expected.anomaly.tolist()
    assert 0 < sum(found["anomaly"]) < ROWS


@pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.arrow.stream"])
def test_answers_come_in_the_form_that_is_asked_for(kind: str, client: TestClient) -> None:
    body = {"rows": as_rows(frame())}
    plain, other = client.post("/score", json=body), client.post("/score", json=body, headers={"accept": kind})
    assert other.headers["content-type"].startswith(kind)
    if kind == "text/csv":
        found = pd.read_csv(io.BytesIO(other.content))
    else:
        found = pa.ipc.open_stream(other.content).read_all().to_pandas()
    for name in ("score", "p_value", "anomaly"):
        np.testing.assert_allclose(found[name].to_numpy(float), np.array(plain.json()[name], float), rtol=1e-6)


def test_bad_rows_are_named_and_none_is_scored(client: TestClient) -> None:
    rows = as_rows(frame())
    rows[3]["c1"], rows[17]["c4"], rows[30]["c4"] = "much", "1e999", "little"
    before = _metric(client, "rows_total")
    answer = client.post("/score", json={"rows": rows})
    assert answer.status_code == 422
    assert "3 of 40 rows cannot be scored, so none was" in answer.json()["error"]
    faults = {fault["row"]: fault["error"] for fault in answer.json()["faults"]}
    assert set(faults) == {3, 17, 30}
    assert "'c1'" in faults[3]
    assert "'much'" in faults[3]
    assert "'c4'" in faults[17]
    assert _metric(client, "rows_total") == before


def test_more_bad_rows_than_one_wants_to_read(client: TestClient) -> None:
    answer = client.post("/score", json={"rows": [{**row, "c2": "?"} for row in as_rows(frame())]})
    assert [fault["row"] for fault in answer.json()["faults"]] == list(range(20))
    assert "20 or more" in answer.json()["error"]


BAD: dict[str, tuple[str, bytes, int, str]] = {
    "no JSON": ("application/json", b'{"rows": [', 422, "is not JSON"),
    "a bomb of brackets": ("application/json", b"[" * 100_000, 422, "is not JSON"),
    "NaN": ("application/json", b'{"rows": [{"c0": NaN}]}', 422, "null says"),
    "another object": ("application/json", b'{"instances": []}', 422, "is not {"),
    "no rows": ("application/json", b'{"rows": []}', 422, "holds no rows"),
    "lists": ("application/json", b'{"rows": [[1, 2]]}', 422, "row 0 is not an object"),
    "a column missing": ("application/json", b'{"rows": [{"c0": 1}]}', 422, "lacks column 'c1'"),
    "a list as a value": (
        "application/json",
        json.dumps({"rows": [dict.fromkeys(NAMES, 1) | {"kind": [1]}]}).encode(),
        422,
        "'kind' holds list",
    ),
    "a table without a column": ("text/csv", b"c0,c1\n1,2\n", 422, "lacks columns"),
    "no Parquet": ("application/vnd.apache.parquet", b"PAR1 but no more", 422, "the body: is truncated or no Parquet"),
    "a pickle in disguise": ("application/vnd.apache.arrow.file", pickle.dumps(os.getcwd), 422, "no Arrow file"),
    "a pickle": ("application/octet-stream", pickle.dumps(os.getcwd), 415, "give one of application/json"),
    "images": ("image/png", b"", 422, "reads no image files"),
    "no form": ("multipart/form-data", b"x", 400, "not a form"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str, client: TestClient) -> None:
    kind, content, status, complaint = BAD[name]
    answer = client.post("/score", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert complaint in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert "/tmp" not in answer.text


def test_other_ways_of_asking_are_answered_in_one_line(client: TestClient) -> None:
    assert client.get("/score").status_code == 405
    assert client.get("/else").json() == {"error": "Not Found"}
    assert client.post("/explain?k=no", json={}).json()["error"].startswith("k = no")
    packed = client.post("/score", content=b"", headers={"content-type": "text/csv", "content-encoding": "gzip"})
    assert packed.status_code == 415


def test_limits_of_a_request(folder: Path) -> None:
    limits = Limits(body=20_000, rows=50)
    client = TestClient(application(Scorer(folder / "detector.onnx"), limits))
    rows = as_rows(frame(51))
    for kind, content in (
        ("application/json", json.dumps({"rows": rows}).encode()),
        (KINDS[1], as_bytes(frame(51), KINDS[1])),
    ):
        answer = client.post("/score", content=content, headers={"content-type": kind})
        assert answer.status_code == 413
        assert "at most 50 rows" in answer.json()["error"]
    answer = client.post("/score", content=b"x" * 20_001, headers={"content-type": "text/csv"})
    assert answer.status_code == 413
    assert "at most 20,000 bytes" in answer.json()["error"]


def test_a_body_without_a_length_is_counted_while_it_streams(folder: Path) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1000
            yield b"x" * 1000

    async def ask() -> httpx.Response:
        app = application(Scorer(folder / "detector.onnx"), Limits(body=100_000))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return await client.post("/score", content=endless(), headers={"content-type": "text/csv"})

    answer = asyncio.run(ask())
    assert answer.status_code == 413
    assert sent <= 103_000


def test_whoever_finds_no_room_is_sent_away(folder: Path) -> None:
    scorer = Scorer(folder / "detector.onnx")
    app, inside, go_on = application(scorer, Limits(requests=2)), threading.Semaphore(0), threading.Event()
    compute = scorer.run

    def slow(x: np.ndarray) -> dict[str, np.ndarray]:
        inside.release()
        assert go_on.wait(30)
        return compute(x)

    scorer.run = slow  # type: ignore[method-assign]
    body = {"rows": as_rows(frame(1))}

    async def ask() -> tuple[httpx.Response, httpx.Response, list[httpx.Response]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            first = [asyncio.create_task(client.post("/score", json=body)) for _ in range(2)]
            await asyncio.to_thread(inside.acquire)
            await asyncio.sleep(0.05)
            turned_away, live = await client.post("/score", json=body), await client.get("/live")
            go_on.set()
            return turned_away, live, await asyncio.gather(*first)

    turned_away, live, first = asyncio.run(ask())
    assert (turned_away.status_code, turned_away.headers["retry-after"]) == (503, "1")
    assert live.status_code == 200  # the event loop is free
    assert [answer.status_code for answer in first] == [200, 200]


def test_bodies_that_wait_are_bounded_together(folder: Path) -> None:
    client = TestClient(application(Scorer(folder / "detector.onnx"), Limits(waiting=100)))
    answer = client.post("/score", content=b"x" * 101, headers={"content-type": "text/csv"})
    assert answer.status_code == 503
    assert client.post("/score", content=b"c0\n1\n", headers={"content-type": "text/csv"}).status_code == 422


def test_the_token(folder: Path) -> None:
    client = TestClient(application(Scorer(folder / "detector.onnx"), token="secret"))
    for path in ("/live", "/ready"):
        assert client.get(path).status_code == 200
    for headers in ({}, {"authorization": "Bearer secre"}, {"authorization": "secret"}, {"authorization": "Bearer é"}):
        encoded = {name: value.encode() for name, value in headers.items()}
        for path in ("/metadata", "/metrics", "/openapi.json", "/else"):
            assert client.get(path, headers=encoded).status_code == 401
        assert client.post("/score", json={}, headers=encoded).status_code == 401
    assert client.get("/metadata", headers={"authorization": "Bearer secret"}).status_code == 200


def test_what_it_says_of_itself(client: TestClient) -> None:
    about = client.get("/metadata").json()
    assert [column["name"] for column in about["schema"]["columns"]] == NAMES
    assert "canary" not in about  # they are rows of somebody's
    assert client.get("/ready").json() == {"ready": True, "canary": 4}
    assert client.get("/openapi.json").json()["paths"].keys() >= {"/score", "/explain"}
    before = _metric(client, "rows_total")
    client.post("/score", json={"rows": as_rows(frame())})
    assert _metric(client, "rows_total") == before + ROWS
    assert _metric(client, 'requests_total{path="/score",status="200"}') >= 1
    assert _metric(client, "requests_inside") == 0
    assert _metric(client, "bytes_inside") == 0


def test_it_is_not_ready_where_it_scores_otherwise(folder: Path) -> None:
    scorer = Scorer(folder / "detector.onnx")
    client, compute = TestClient(application(scorer)), scorer.run
    scorer.run = lambda x: {**compute(x), "score": compute(x)["score"] * 1.01}  # type: ignore[method-assign]
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "scores differ" in answer.json()["error"]


def _metric(client: TestClient, name: str) -> float:
    lines = (line for line in client.get("/metrics").text.splitlines() if line.startswith(f"vae_lightning_{name}"))
    return float(next(lines).rpartition(" ")[2])


def test_reasons_are_the_detectors(explaining: TestClient, client: TestClient, folder: Path) -> None:
    rows = as_rows(frame(6))
    expected = Detector.load(folder / "detector.ckpt").explain(frame(6))
    found = explaining.post("/explain?k=2", json={"rows": rows}).json()
    assert found["method"] == expected.method
    for i, row in enumerate(found["explanations"]):
        assert [reason["column"] for reason in row["reasons"]] == [reason.column for reason in expected.reasons(i, 2)]
        assert row["columns"] + row["latent"] + row["base"] + row["gap"] == pytest.approx(row["score"], rel=1e-5)
    beside = explaining.post("/score?explain=2", json={"rows": rows}).json()
    assert beside["reason_1"] == expected.appended(2)["reason_1"].tolist()
    assert explaining.post("/explain", json={"rows": as_rows(frame(11))}).status_code == 413
    for path in ("/explain", "/score?explain=1"):
        answer = client.post(path, json={"rows": rows})
        assert answer.status_code == 501
        assert "checkpoint" in answer.json()["error"]


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, Detector]:
    """A service that takes images, and its detector."""
    torch.manual_seed(0)
    model = Autoencoder([1, 8, 8], Conv([4, 8]), 3, preprocessing=Images()).eval()
    pixels = torch.randint(0, 256, (100, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model.detector.calibrate(pixels)
    model.trained_on = {"images": {"size": [8, 8], "channels": 1}}
    path = tmp_path_factory.mktemp("pictured") / "detector.ckpt"
    model.detector.save(path)
    return TestClient(application(Scorer(path))), Detector.load(path)


def _png(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(out := io.BytesIO(), "PNG")
    return out.getvalue()


def test_images(pictured: tuple[TestClient, Detector]) -> None:
    client, detector = pictured
    images = np.random.default_rng(3).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    expected = detector(images[:, None]).score
    files = [("file", (f"{i}.png", _png(image), "image/png")) for i, image in enumerate(images)]
    np.testing.assert_allclose(client.post("/score", files=files).json()["score"], expected, rtol=1e-6)
    one = client.post("/score", content=_png(images[1]), headers={"content-type": "image/png"}).json()
    np.testing.assert_allclose(one["score"], expected[1:2], rtol=1e-5)
    listed = client.post("/score", json={"rows": images[:, None].tolist()}).json()
    np.testing.assert_allclose(listed["score"], expected, rtol=1e-6)
    (row,) = client.post("/explain?heatmap=true", files=files[:1]).json()["explanations"]
    assert Image.open(io.BytesIO(base64.b64decode(row["heatmap"]))).size == (8, 8)
    bad = client.post("/score", files=[*files, ("file", ("no.png", b"GIF89a", "image/png"))])
    assert bad.status_code == 422
    assert bad.json()["faults"][0]["row"] == 3
    assert "no.png" in bad.json()["error"]
    assert client.post("/score", json={"rows": [[[[256]]]]}).status_code == 422
    assert client.post("/score", content=b"a\n1\n", headers={"content-type": "text/csv"}).status_code == 422


# As a process


@pytest.fixture
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of its own, and its port."""
    code = """
import sys
from vae_lightning.commands import main
rc = main(["serve", "--detector", "detector.onnx", "--port", "0", "--max_megabytes", "1"])
print([name for name in ("torch", "lightning", "sklearn", "scipy", "onnx", "matplotlib") if name in sys.modules])
sys.exit(rc)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    port = int(process.stdout.readline().rpartition(":")[2])
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


def test_a_server_needs_no_torch_and_answers_before_it_stops(process: tuple[subprocess.Popen[str], int]) -> None:
    server, port = process
    body = json.dumps({"rows": as_rows(frame(5))}).encode()
    assert httpx.get(f"http://127.0.0.1:{port}/ready", timeout=30).status_code == 200
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as under_way:
        under_way.sendall(head.encode() + body[:10])
        time.sleep(0.3)  # it has come in, and not all of it
        server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        under_way.sendall(body[10:])
        answer = under_way.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["score"]) == 5
    assert server.wait(30) == 0
    assert server.stdout is not None
    assert server.stdout.read().strip() == "[]"


def test_ten_gigabytes_are_refused_by_their_head_alone(process: tuple[subprocess.Popen[str], int]) -> None:
    _, port = process
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: {10 * 2**30}\r\n\r\n"
        client.sendall(head.encode())
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"10,737,418,240" in answer


def test_bad_ways_to_start(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bad.onnx").write_bytes((folder / "detector.onnx").read_bytes()[:-1])
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port, good = other.getsockname()[1], f"--detector {folder}/detector.onnx"
        for line, complaint in {
            f"{good} --port {port}": f"--port {port}: 127.0.0.1 cannot be listened at (Address already in use)",
            f"{good} --port 70000": "--port 70000",
            f"{good} --host nowhere.invalid --port 0": "--host nowhere.invalid",
            f"{good} --token_file {tmp_path}/empty --port 0": "is empty",
            f"{good} --token_file {tmp_path}/none --port 0": "No such file",
            f"{good} --max_rows 0 --port 0": "--max_rows 0: give at least 1",
            f"--detector {tmp_path}/bad.onnx --port 0": "truncated",
        }.items():
            assert main(["serve", *line.split()]) == 2, line
            error = capsys.readouterr().err
            assert complaint in error
            assert error.count("\n") == 1
