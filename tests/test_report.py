"""A run as one HTML file: complete in itself, escaped, and with the figures that others compute."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from vae_lightning import MLP, VAE, Arrays, fit
from vae_lightning.scores import NegativeELBO, ReconstructionError
from vae_lightning.studies.finished import Run
from vae_lightning.studies.opened import Opened, open_run
from vae_lightning.studies.report.bootstrap import ranking
from vae_lightning.studies.report.content import Content, gather
from vae_lightning.studies.report.page import render

EVIL = "<script>alert('x')</script>"
VOID = {"col", "meta", "link", "img", "br", "hr", "use", "path", "rect", "stop"}


class Page(HTMLParser):
    """What is in a page: its elements, whether each was closed, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "action")]
        assert not any(key.startswith("on") for key, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def opened(folder: Path, images: bool) -> Opened:
    rng = np.random.default_rng(0)
    if images:
        x = np.mgrid[:9, :9][1]
        pixels = 127 + 90 * np.sin(0.5 * x + rng.uniform(0, 6, size=(300, 1, 1)))
        pixels[250:, 3:6, 3:6] = 255
        data = Arrays(pixels.astype(np.uint8), np.arange(300) >= 250, images=True)
    else:
        rows = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(600, 4))
        rows[560:, 1] += 15
        data = Arrays(pandas.DataFrame(rows, columns=["a", EVIL, "c", "d & e"]), np.arange(600) >= 560)
    scores = [ReconstructionError(), NegativeELBO()]
    run = fit(VAE(data.input_shape, MLP([16]), latent_dim=2, scores=scores), data, max_epochs=10, verbose=False)
    metrics = {**run.metrics, "epochs": 5, "seconds": 1.0}
    return Opened(Run(folder, {"model": EVIL, "seed_everything": 0}, metrics), run.detector, data, folder / "best.ckpt")


@pytest.fixture(scope="module", params=["table", "images"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Content, str]:
    torch.set_num_threads(1)
    content = gather(opened(tmp_path_factory.mktemp("run"), request.param == "images"))
    return request.param, content, render(content)


def test_a_page_is_complete_in_itself(made: tuple[str, Content, str]) -> None:
    kind, _content, text = made
    page = Page(text)
    assert not page.open
    assert "script" not in page.tags
    assert {"svg", "table", "nav"} <= set(page.tags)
    assert all(address.startswith(("#", "data:")) for address in page.addresses), page.addresses
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(text.encode()) < 1_000_000
    assert ("img" in page.tags) == (kind == "images")
    assert {"currentColor", "var(--normal)"} <= set(re.findall(r"currentColor|var\(--normal\)", text))
    assert not re.findall(r"#0072b2(?!;)|#102030|#a0b0c0", text.partition("</style>")[2], re.IGNORECASE)
    anchors = [address for address in page.addresses if re.fullmatch("#[a-z]+", address)]
    assert all(f'id="{anchor[1:]}"' in text for anchor in anchors)


def test_names_out_of_the_data_are_escaped(made: tuple[str, Content, str]) -> None:
    kind, _, text = made
    assert EVIL not in text
    assert EVIL in Page(text).text  # as a setting, and as a column's name
    if kind == "table":
        assert "&lt;script&gt;" in text
        assert "d &amp; e" in text


def test_what_it_says(made: tuple[str, Content, str]) -> None:
    kind, content, text = made
    said = " ".join(Page(text).text.split())
    for finding in content.diagnosis.findings:
        assert finding.name in said
        assert finding.value[1:] in said
    assert content.alarms[0] in said
    assert {name: strange for name, _, strange in content.splits}["test"] > 0
    (name, auroc, _), *_ = content.scores
    assert name == "ReconstructionError"
    assert f"{auroc.value:.4f}" in said
    strangest = content.samples["Highest scores"]
    assert [sample.score for sample in strangest] == sorted((sample.score for sample in strangest), reverse=True)
    if kind == "table":
        assert strangest[0].kind == "anomalous"
        assert strangest[0].reasons[0].column == EVIL
        assert strangest[0].reasons[0].without < strangest[0].score


def test_curves_and_intervals_by_other_means() -> None:
    rng = np.random.default_rng(0)
    label = (np.arange(400) % 8 == 0).astype(int)
    score = (rng.normal(size=400) + 1.5 * label).round(1)  # with ties
    found = ranking(label, score)
    assert found.auroc.value == pytest.approx(roc_auc_score(label, score))
    assert found.average_precision.value == pytest.approx(average_precision_score(label, score))
    areas = []
    for _ in range(300):
        drawn = np.concatenate([rng.choice(np.flatnonzero(label == kind), (label == kind).sum()) for kind in (0, 1)])
        areas.append(roc_auc_score(label[drawn], score[drawn]))
    low, high = np.quantile(areas, [0.025, 0.975])
    assert found.auroc.low == pytest.approx(low, abs=0.02)
    assert found.auroc.high == pytest.approx(high, abs=0.02)
    assert (found.roc_band[0] <= found.roc_band[1]).all()
    perfect = ranking(label, label.astype(float), resamples=20)
    assert perfect.auroc == (1, 1, 1)
    assert perfect.average_precision == (1, 1, 1)


def test_the_command(
    fitted: Path, run: Callable[[str], int], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    assert run(f"report {fitted}") == 0
    page = fitted / "report.html"
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    assert "Self-check" in text
    assert "Loss, nats per sample" in text  # out of TensorBoard's files
    assert run(f"report {fitted} --out {fitted}") == 2
    assert "is a folder" in capsys.readouterr().err
    twin = fitted.parent / "version_1"
    shutil.copytree(fitted, twin)
    config = twin / "config.yaml"
    config.write_text(config.read_text().replace("seed_everything: 0", "seed_everything: 1"))
    found = open_run(fitted).twin
    assert found is not None
    assert found[0] == "version_1"
    config.write_text(config.read_text().replace("latent_dim: 8", "latent_dim: 7"))
    assert open_run(fitted).twin is None
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run(f"report {fitted}") == 2
    assert "pip install 'vae_lightning[report]'" in capsys.readouterr().err
