"""How far an exported file scores from its detector, for each family of scores, model and format.

python results/parity.py

Each model is trained once, with all of its scores. Then each score alone decides: the detector is exported, and the
file and the detector are given the same samples, ordinary ones and others. The difference is relative to the score, or
to the interquartile range of calibration scores if that is larger, as everywhere (``deployment/tolerance.py``). A score
that cannot be exported says why. Lines are written as found, and a second start goes on with what is missing.
"""

import argparse
import contextlib
import csv
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import vae_lightning as vl
from vae_lightning import scores as kinds
from vae_lightning.data import AnomalyDataModule, Digits, Table
from vae_lightning.data.records import records
from vae_lightning.deployment.export import export
from vae_lightning.deployment.scorer import Scorer
from vae_lightning.deployment.tolerance import difference
from vae_lightning.deployment.verification import spread
from vae_lightning.detection import Detector
from vae_lightning.errors import UserError
from vae_lightning.files import write_csv
from vae_lightning.models import Mixed
from vae_lightning.models.networks import Conv

HEAD = ["model", "score", "format", "samples", "alarms", "largest_difference", "decisions_that_differ", "refused"]
SAMPLES = 5000
FORMATS = "onnx", "pt2"


def scores() -> list[kinds.Score]:
    found = [kinds.ReconstructionError(), kinds.NegativeLogLikelihood(), kinds.NegativeELBO()]
    found += [kinds.ImportanceWeighted(k=10), kinds.ReconstructionProbability(), kinds.LikelihoodRegret(steps=20)]
    found += [kinds.SAP(), kinds.NAP(), kinds.Mahalanobis(), kinds.LatentDensity(4), kinds.KNearestNeighbours()]
    found += [kinds.Neighbours(), kinds.Combined([kinds.ReconstructionError(), kinds.NAP()]), kinds.InputComplexity()]
    return found


Given = tuple[Callable[[list[kinds.Score]], vl.AnomalyModel], AnomalyDataModule, Callable[[], np.ndarray]]


def numbers(model: Callable[..., vl.AnomalyModel], **arguments: object) -> Given:
    """Ten numbers on scales of their own."""
    rng = np.random.default_rng(0)
    weights, scale = rng.normal(size=(3, 10)), np.logspace(-3, 3, 10)
    rows = np.tanh(rng.normal(size=(4000 + SAMPLES, 3)) @ weights) + 0.2 * rng.normal(size=(4000 + SAMPLES, 10))
    rows[4000::2] += rng.normal(size=rows[4000::2].shape)
    data = vl.Arrays(rows[:4000] * scale, test_fraction=0.0)
    return lambda some: model([10], vl.MLP([32, 16]), 3, scores=some, **arguments), data, lambda: rows[4000:] * scale


def mixed() -> Given:
    """Card payments: numbers, categories, gaps."""
    data = Table(pd.DataFrame(records(4000)), label="label", id="id", ignore=["time"])
    test = pd.DataFrame(records(SAMPLES, anomalies=0.5, seed=1))
    return (
        lambda some: vl.VAE(data.input_shape, vl.MLP([32]), 6, Mixed(), scores=some),
        data,
        lambda: data.schema.encode_array(test).x,
    )


def digits() -> Given:
    """Images, and their negatives."""
    data = Digits(normal_classes=[0, 1, 2, 3])

    def test() -> np.ndarray:
        data.setup("test")
        x = torch.cat([batch.x for batch in data.test_dataloader()]).cpu().numpy()
        return np.resize(np.concatenate([x, 255 - x]), (SAMPLES, *x.shape[1:]))

    return lambda some: vl.VAE(data.input_shape, Conv([8, 16]), 4, vl.Bernoulli(), scores=some), data, test


MODELS: dict[str, Callable[[], Given]] = {
    "Autoencoder, 10 numbers": lambda: numbers(vl.Autoencoder),
    "VAE, 10 numbers": lambda: numbers(vl.VAE, likelihood=vl.Gaussian("predicted")),
    "IWAE, 10 numbers": lambda: numbers(vl.IWAE, likelihood=vl.Gaussian("per_feature"), k=5),
    "VAE, mixed columns": mixed,
    "VAE, convolutions, images": digits,
}


def trained(given: Given) -> tuple[Detector, np.ndarray]:
    """A detector with all scores that go with its model, and samples to compare."""
    build, data, test = given
    plain, some = build([kinds.ReconstructionError()]), []
    for score in scores():
        with contextlib.suppress(UserError):
            score.check(plain)
            some.append(score)
    return vl.fit(build(some), data, max_epochs=5, verbose=False, device="cpu").detector, test()


def compared(name: str, detector: Detector, x: np.ndarray, folder: Path) -> Iterator[list[object]]:
    """The lines of one score, which alone decides."""
    model = detector.model
    kept = model.scores, model.thresholds
    model.scores, model.thresholds = (nn.ModuleDict({name: part[name]}) for part in kept)
    expected = detector(x)
    for form in FORMATS:
        try:
            export(detector, folder / f"detector.{form}", form)
        except UserError as error:
            yield [form, "", "", "", "", str(error)]
            continue
        found = Scorer(folder / f"detector.{form}", threads=1)(x)
        far = difference(found["score"], expected.score, spread(detector.threshold)).max()
        differs = int((found["anomaly"] != expected.anomaly).sum())
        yield [form, len(x), int(expected.anomaly.sum()), f"{far:.1e}", differs, ""]
    model.scores, model.thresholds = kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/parity.csv"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = list(csv.reader(given.out.open()))[1:] if given.out.exists() else []
    for title, make in MODELS.items():
        detector = None
        for score in [type(score).__name__ for score in scores()]:
            if [title, score] in [line[:2] for line in lines]:
                continue
            if detector is None:
                detector, x = trained(make())
            if score not in detector.names:
                lines.append([title, score, "", "", "", "", "", "does not go with this model"])
            else:
                with tempfile.TemporaryDirectory() as folder:
                    lines += [[title, score, *line] for line in compared(score, detector, x, Path(folder))]
            write_csv(given.out, [HEAD, *lines])
            print(lines[-1], flush=True)
