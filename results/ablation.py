"""What each ingredient of configs/conv_vae.yaml brings: the benchmark with one thing changed at a time.

python results/ablation.py    # from the project's root; stopped, it goes on with the same command

On the classes of both data sets that are hardest as the normal one, seed 0. The rows are test AUROCs: nothing was
chosen by them.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from vae_lightning.commands import main
from vae_lightning.models import VAE

CLASSES = [2, 6, 8]
FEATURES = ["code", "difference", "errors", "blocks"]


class Denoising(VAE):
    """Sees images with noise while it is trained, and is to give them back without.

    Im et al. 2017, "Denoising Criterion for Variational Auto-Encoding Framework", eq. 6.
    """

    def objective(self, x: Tensor, beta: float) -> dict[str, Tensor]:
        mu, logvar = self.posterior(x + 0.25 * self.noise(*x.shape) if self.training else x)
        z = mu + (0.5 * logvar).exp() * self.noise(*mu.shape)
        nll, kl = -self.likelihood.log_prob(self.decode(z), x), self.kl(mu, logvar)
        return {"loss": nll + beta * kl, self.likelihood.name: nll, "kl": kl}


def density(features: list[str], **changes: Any) -> dict[str, Any]:
    """The configuration's mixtures, of some features."""
    arguments = {"components": [4, 8, 64], "capacity": 24576, "max_iter": 5, "features": features, **changes}
    return {"class_path": "LatentDensity", "init_args": arguments}


# of the same nets: what the score looks at, how flexible it is
SCORES = {
    "code alone": density(FEATURES[:1]),
    "code and difference": density(FEATURES[:2]),
    "code, difference, errors": density(FEATURES[:3]),
    "code, difference, errors, blocks": density(FEATURES),
    "the same, one Gaussian": density(FEATURES, components=1),
    "code and errors": density(["code", "errors"], components=[4, 16, 128]),
}
CHANGES: dict[str, dict[str, Any]] = {
    "scores": {"model.init_args.scores": list(SCORES.values())},
    "beta_1": {"model.init_args.beta": 1.0},
    "beta_0": {"model.init_args.beta": 0.0},
    "latent_8": {"model.init_args.latent_dim": 8},
    "mlp": {"model.init_args.network": {"class_path": "MLP", "init_args": {"hidden": [400]}}},
    "denoising": {"model.class_path": "ablation.Denoising"},
}
RUNS = Path("lightning_logs")


def benchmark(name: str, settings: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of a benchmark's results.csv: one class after the other is normal, both data sets, seed 0."""
    line = "benchmark --config configs/conv_vae.yaml --data MNIST FashionMNIST --seeds 0 --no_baselines --classes"
    options = [f"--{key}={json.dumps(value)}" for key, value in settings.items()]
    if code := main([*line.split(), *map(str, CLASSES), "--name", f"ablation_{name}", "--runs", str(RUNS), *options]):
        sys.exit(code)
    with (RUNS / f"ablation_{name}" / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def ablation() -> list[list[Any]]:
    """Change, data set, score and the mean test AUROC over the classes."""
    found: list[list[Any]] = []
    for name, settings in CHANGES.items():
        groups: dict[tuple[str, str], list[float]] = {}
        for row in benchmark(name, settings):
            groups.setdefault((row["data"], row["method"]), []).append(float(row["auroc"]))
        for (data, method), aurocs in groups.items():
            if name == "scores":  # all of one class, numbered in their order
                method = list(SCORES)[int(method.partition("_")[2] or 1) - 1]
            found.append([name, data, method, statistics.mean(aurocs)])
    return found


if __name__ == "__main__":
    lines = [["change", "data", "score", "auroc"], *ablation()]
    with (Path(__file__).parent / "ablation.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
