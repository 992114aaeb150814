"""What the estimators cost: their ``fit`` against PyOD's, and against a loop by hand, with the same nets and data.

    pip install "vae_lightning[benchmark]"
    python benchmarks/estimator_time.py --repeats 7 --out results/estimator_time.json

Three ways of the same work, in one process and in turn, so that a machine that slows down slows all:

``estimator``  ``VAEDetector.fit`` or ``AutoencoderDetector.fit``
``pyod``       ``pyod.models.vae.VAE.fit`` or ``pyod.models.auto_encoder.AutoEncoder.fit``
``by hand``    standardise, then a loop over tensors in memory with fused Adam: no validation, no calibration, no score

All train nets of the same widths, float32, without dropout, batch norm and weight decay, on 10,000 rows of 20 columns
in batches of the same size for the same epochs. The estimators get a quarter more rows, for they hold a tenth each out
of training: they train on 10,000 too, and validate at each epoch, choose the best, and calibrate beside. PyOD scores
its training rows once at the end, for its threshold. A ratio is the median of the repeats' ratios; a first round of
each is left out. Seconds of the processor leave out what other work on the machine takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pyod.models import auto_encoder, vae

from vae_lightning import VAE, Autoencoder, AutoencoderDetector, MeanSquaredError, VAEDetector
from vae_lightning.models.networks import MLP

WIDTHS, LATENT, RATE = [64, 32], 8, 1e-3
TRAIN, HELD_OUT, COLUMNS = 10_000, 1_250, 20


def estimator(kind: type, rows: np.ndarray, epochs: int, batch_size: int) -> None:
    """Ours, on the rows and those that it holds out."""
    kind(
        network=WIDTHS,
        latent_dim=LATENT,
        likelihood=MeanSquaredError(),
        max_epochs=epochs,
        batch_size=batch_size,
        learning_rate=RATE,
        random_state=0,
        device="cpu",
    ).fit(rows)


def pyod(kind: type, rows: np.ndarray, epochs: int, batch_size: int) -> None:
    """PyOD's, with what it does beside the net's steps left at its defaults."""
    common = {"epoch_num": epochs, "batch_size": batch_size, "lr": RATE, "device": torch.device("cpu"), "verbose": 0}
    common |= {"optimizer_params": {}, "dropout_rate": 0.0, "batch_norm": False, "random_state": 0}
    if kind is vae.VAE:
        kind(encoder_neuron_list=WIDTHS, decoder_neuron_list=WIDTHS[::-1], latent_dim=LATENT, **common).fit(rows)
    else:
        kind(hidden_neuron_list=[*WIDTHS, LATENT], **common).fit(rows)


def by_hand(kind: type, rows: np.ndarray, epochs: int, batch_size: int) -> None:
    """The loop that one writes for this one net."""
    x = torch.from_numpy(((rows - rows.mean(0)) / rows.std(0)).astype(np.float32))
    torch.manual_seed(0)
    model = kind([COLUMNS], MLP(WIDTHS), LATENT, MeanSquaredError())
    encoder, decoder = model.encoder, model.decoder
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(batch_size):
            batch, code = x[chosen], None
            if kind is VAE:
                mu, logvar = encoder(batch).chunk(2, dim=1)
                code = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
                kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)
            else:
                code, kl = encoder(batch), torch.zeros(())
            loss = ((decoder(code)[:, 0] - batch).square().sum(1) + kl).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def race(ways: dict[str, Callable[[], None]], repeats: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each way by the clock and of the processor, all in turn; the first round is left out."""
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            start, busy = time.perf_counter(), time.process_time()
            way()
            clock[name].append(round(time.perf_counter() - start, 3))
            processor[name].append(round(time.process_time() - busy, 3))
    return tuple({name: values[1:] for name, values in part.items()} for part in (clock, processor))  # type: ignore


def compared(seconds: dict[str, list[float]]) -> dict[str, object]:
    """Medians, the ratios of the estimator's time to the rivals', and all repeats."""
    ratios = {
        f"of {rival}": round(statistics.median(a / b for a, b in zip(seconds["estimator"], values, strict=True)), 3)
        for rival, values in seconds.items()
        if rival != "estimator"
    }
    medians = {way: round(statistics.median(values), 3) for way, values in seconds.items()}
    return {"estimator takes": ratios, "medians": medians, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128], help="PyOD's default, and ours")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    factors = rng.normal(size=(TRAIN + 2 * HELD_OUT, 5)) @ rng.normal(size=(5, COLUMNS))
    everything = (factors + 0.3 * rng.normal(size=factors.shape)).astype(np.float32)
    rows = everything[:TRAIN]
    kinds = {
        "VAE": (VAEDetector, vae.VAE, VAE),
        "autoencoder": (AutoencoderDetector, auto_encoder.AutoEncoder, Autoencoder),
    }

    options = f"--repeats {args.repeats} --epochs {args.epochs} --batch-sizes {' '.join(map(str, args.batch_sizes))}"
    names = "vae_lightning", "pyod", "torch", "lightning", "scikit-learn", "numpy"
    figures: dict[str, object] = {
        "command": f"python benchmarks/estimator_time.py {options}",
        "machine": f"{torch.get_num_threads()} threads of {os.cpu_count()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in names},
        "load": [round(value, 2) for value in os.getloadavg()],
    }
    for name, (ours, theirs, net) in kinds.items():
        for size in args.batch_sizes:
            ways: dict[str, Callable[[], None]] = {
                "estimator": lambda: estimator(ours, everything, args.epochs, size),  # noqa: B023 (called at once)
                "pyod": lambda: pyod(theirs, rows, args.epochs, size),  # noqa: B023
                "by hand": lambda: by_hand(net, rows, args.epochs, size),  # noqa: B023
            }
            clock, processor = map(compared, race(ways, args.repeats))
            for part, found in (("clock", clock), ("processor", processor)):
                print(f"{name:<12} {size:>4} a batch, {part:<10} {found['medians']}, ratio {found['estimator takes']}")
            figures[f"{name}, batches of {size}"] = {"clock": clock, "processor": processor}
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
