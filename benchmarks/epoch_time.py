"""What Lightning costs: an epoch of ``fit`` against hand-written loops, with the same net on all of MNIST.

    python benchmarks/epoch_time.py --epochs 5 --out results/epoch_time.json

Three ways of the same work, in one process, an epoch of each in turn, so that a machine that slows down slows all:

``fit``        Trainer with TensorBoard, progress bar, metrics, pictures and checkpoints, as the command line builds it
``in memory``  a loop by hand: uint8 tensors, a permutation, fused Adam
``dataset``    the usual loop: torchvision's Dataset with ToTensor, a shuffling DataLoader, Adam

All train a 784-400-20 VAE on 54,000 digits in batches of 128, then compute loss, reconstruction error and AUROC on the
same 12,000 validation samples. A ratio is the median of the epochs' ratios; the first epoch of each is left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from vae_lightning import data
from vae_lightning.commands import CLI
from vae_lightning.models import VAE
from vae_lightning.models.likelihoods import Bernoulli

BATCH = 128


def step(model: VAE, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    """One training step of a VAE as one writes it by hand; the summed loss."""
    mu, logvar = model.encoder(x).chunk(2, dim=1)
    z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
    bce = F.binary_cross_entropy_with_logits(model.decoder(z).flatten(1), x.flatten(1), reduction="sum")
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum()
    loss = (bce + kl) / len(x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach() * len(x)


@torch.no_grad()
def validate(model: VAE, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Loss and reconstruction error of each sample; the AUROC."""
    scores, labels = [], []
    for x, label in batches:
        mu, logvar = model.encoder(x).chunk(2, dim=1)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        F.binary_cross_entropy_with_logits(model.decoder(z)[:, 0], x)
        scores.append((x - model.decoder(mu)[:, 0].sigmoid()).square().flatten(1).mean(1))
        labels.append(label)
    return float(roc_auc_score(torch.cat(labels), torch.cat(scores)))


class InMemory:
    """The loop by hand over tensors in memory."""

    def __init__(self, train: Tensor, val: Tensor, label: Tensor) -> None:
        self.train, self.val, self.label = train, val, label
        self.model = VAE([1, 28, 28], likelihood=Bernoulli())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)

    def epoch(self) -> None:
        total = torch.zeros(())
        for rows in torch.randperm(len(self.train)).split(BATCH):
            total += step(self.model, self.optimizer, self.train[rows].float().div_(255))

    def validation(self) -> None:
        batches = zip(self.val.split(1024), self.label.split(1024), strict=True)
        validate(self.model, ((x.float().div_(255), label) for x, label in batches))


class FromDataset(InMemory):
    """The usual loop: a Dataset that makes a PIL image and then a tensor of each sample, and a DataLoader."""

    def __init__(self, root: str, rows: Tensor, val: Tensor, label: Tensor) -> None:
        super().__init__(rows, val, label)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        dataset = torch.utils.data.Subset(MNIST(root, transform=ToTensor(), download=True), rows.tolist())
        self.loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True)

    def epoch(self) -> None:
        total = torch.zeros(())
        for x, _ in self.loader:
            total += step(self.model, self.optimizer, x)


class Race(Callback):
    """Times each epoch of fit, all that Lightning does in it, and between two of them an epoch of each rival."""

    def __init__(self, rivals: dict[str, InMemory]) -> None:
        self.rivals = rivals
        self.seconds: dict[str, dict[str, list[float]]] = {
            part: {name: [] for name in ("fit", *rivals)} for part in ("training", "whole epoch")
        }
        self.start: float | None = None

    def on_train_epoch_start(self, *_: object) -> None:
        self._lap("whole epoch", "fit")
        for name, rival in self.rivals.items():
            self.start = time.perf_counter()
            rival.epoch()
            self._lap("training", name)
            rival.validation()
            self._lap("whole epoch", name)
        self.start = time.perf_counter()

    def on_validation_start(self, *_: object) -> None:
        self._lap("training", "fit")

    def on_train_end(self, *_: object) -> None:
        self._lap("whole epoch", "fit")

    def _lap(self, part: str, name: str) -> None:
        if self.start is not None:
            self.seconds[part][name].append(time.perf_counter() - self.start)


def raced(root: str, epochs: int, usual: bool = True, *options: str) -> Race:
    """``fit`` beside the loops by hand; without the ``usual`` one if that is False, with more options of ``fit``."""
    digits = data.MNIST(root, anomalies_from=data.FashionMNIST(root), calibration_fraction=0.0)
    train, val = digits.loader("train").split, list(digits.val_dataloader())
    x, label = torch.cat([batch.x for batch in val]), torch.cat([batch.label for batch in val])
    rivals = {"in memory": InMemory(train.x[train.rows], x, label)}
    if usual:
        rivals["dataset"] = FromDataset(root, train.rows, x, label)
    race = Race(rivals)

    class Timed(CLI):
        def instantiate_trainer(self, **kwargs: object) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.append(race)
            return trainer

    with tempfile.TemporaryDirectory() as runs:
        line = f"fit --config configs/mnist_vae.yaml --data.init_args.val_fraction 0.1 --data.init_args.root {root}"
        line += f" --data.init_args.anomalies_from.init_args.root {root} --trainer.accelerator cpu --runs {runs}"
        Timed([*line.split(), "--trainer.max_epochs", str(epochs), "--test_after_fit", "false", *options])
    return race


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each; the first is left out")
    parser.add_argument("--root", default="data", help="folder of data sets")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()

    race = raced(args.root, args.epochs)
    figures: dict[str, object] = {
        "command": f"python benchmarks/epoch_time.py --epochs {args.epochs}",
        "machine": f"{torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}",
    }
    for part, seconds in race.seconds.items():
        counted = {name: values[1:] for name, values in seconds.items()}
        for name, values in counted.items():
            ratio = statistics.median(a / b for a, b in zip(counted["fit"], values, strict=True))
            spread = f"{min(values):.2f} to {max(values):.2f}"
            print(f"{part:<12} {name:<10} {statistics.median(values):6.2f} s ({spread}); fit takes {ratio:.2f} of it")
            figures[f"{part}, {name}"] = {"seconds": [round(v, 3) for v in values], "fit takes": round(ratio, 3)}
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
