"""The five experiments of the sources, claimed beside found, and the likelihood of importance weighting."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator

from sections.common import bars, column, compared, grouped, rows, spread, study, table, time

GRID = "model.init_args.latent_dim", "model.init_args.beta"  # of the study on Fashion-MNIST
CLOTHES = "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"


def chosen(name: str, *keys: str) -> tuple[str, list[dict[str, str]]]:
    """The values of ``keys`` with the best mean AUROC on validation, and their rows."""
    return max(grouped(name, *keys).items(), key=lambda group: statistics.mean(column(group[1], "val/auroc")))


def claimed_beside_found() -> Iterator[str]:
    yield ("**Claims and results**, one experiment per source. Times are for one core, shared with other runs.\n")
    body = [claim() for claim in (vae_claim, autoencoder_claim, fashion_claim, synthetic_claim, mixture_claim)]
    yield from table(["experiment", "claim or question", "found", "seeds", "median seconds per run"], body)


def vae_claim() -> list[str]:
    losses, sources = grouped("mnist_vae.csv", "epoch"), grouped("mnist_vae_sources.csv", "anomalies")
    return [
        "1. the standard VAE, `mnist_vae.yaml`",
        "claimed: training loss 107.38, 106.78, 106.37 nats at epochs 8, 9, 10",
        ", ".join(spread(column(losses[epoch], "train/loss"), 2) for epoch in ("8", "9", "10"))
        + f"; clothes among digits: AUROC {spread(column(sources['Fashion-MNIST'], 'auroc/ReconstructionError'))}",
        str(len(losses["10"])),
        time(column(rows("mnist_vae_runs.csv"), "seconds")),
    ]


def autoencoder_claim() -> list[str]:
    beta, best = chosen("mnist_beta.csv", "model.init_args.beta")
    return [
        "2. autoencoder against β-VAE, `mnist_autoencoder.yaml`, `mnist_beta_vae.yaml`, `sweeps/mnist_beta.yaml`",
        "claimed: the VAE detects better, with the right β",
        f"AUROC {compared('mnist_ae_against_vae.csv', 'test/auroc')[0]} against "
        f"{spread(column(best, 'test/auroc'))} with the β that validation prefers, {beta}: "
        + verdict(rows("mnist_ae_against_vae.csv")[0], column(best, "test/auroc")),
        str(len(best)),
        time(column(rows("mnist_beta.csv"), "seconds")),
    ]


def fashion_claim() -> list[str]:
    means = [statistics.mean(column(found, "test/auroc")) for found in grouped("fashion_mnist.csv", *GRID).values()]
    point, best = chosen("fashion_mnist.csv", *GRID)
    return [
        "3. β and latent size, `sweeps/fashion_mnist.yaml`",
        "asked: which β and latent size detect best, at what price in reconstruction",
        f"AUROC from {min(means):.3f} to {max(means):.3f}; {spread(column(best, 'test/auroc'), 3)} with what "
        f"validation prefers, (latent size, β) = ({point})",
        str(len(best)),
        time(column(rows("fashion_mnist.csv"), "seconds")),
    ]


def synthetic_claim() -> list[str]:
    honest, leaking = (grouped(name, "model.init_args.beta") for name in ("synthetic.csv", "synthetic_leaking.csv"))
    annealed = next(value for value in honest if value.startswith("Linear"))
    return [
        "4. β and annealing, `beta_vae.yaml`, `sweeps/synthetic.yaml`",
        "asked: which β, and whether to anneal it; the threshold is a percentile of normal test samples",
        f"AUROC {spread(column(honest[annealed], 'test/auroc'))} annealed, "
        f"{spread(column(honest['1'], 'test/auroc'))} with a constant β = 1, "
        f"{spread(column(honest['0'], 'test/auroc'))} without the KL term; "
        f"F1 {spread(column(honest[annealed], 'test/f1'))} with an honest threshold, "
        f"{spread(column(leaking[annealed], 'test/f1'))} with the leaking one",
        str(len(honest[annealed])),
        time(column(rows("synthetic.csv"), "seconds")),
    ]


def mixture_claim() -> list[str]:
    found = rows("mnist_gmm.csv")
    titles = {"test/accuracy": "accuracy", "test/nmi": "NMI", "test/ari": "ARI"}
    return [
        "5. a mixture on the latent space, `mnist_gmm.yaml`",
        "asked: how well its clusters classify digits",
        ", ".join(f"{title} {spread(column(found, metric), 3)}" for metric, title in titles.items()),
        str(len(found)),
        time(column(found, "seconds")),
    ]


def verdict(baseline: dict[str, str], found: list[float]) -> str:
    """Whether two means differ by more than twice the standard error of their difference."""
    n = float(baseline["n"])
    error = math.hypot(float(baseline["test/auroc std"]) / n**0.5, statistics.stdev(found) / len(found) ** 0.5)
    difference = statistics.mean(found) - float(baseline["test/auroc"])
    says = "confirmed" if difference > 2 * error else "refuted" if difference < -2 * error else "not significant"
    return f"{difference:+.4f} ± {error:.4f} (standard error), {says}"


def standard_vae() -> Iterator[str]:
    yield "**1. The standard VAE** on MNIST by source of anomalies, AUROC (three seeds):\n"
    yield from study("mnist_vae_sources.csv", "anomalies", ["auroc/ReconstructionError", "auroc/NegativeELBO"])


def autoencoder_against_vae() -> Iterator[str]:
    metrics = ["val/auroc", "test/auroc", "test/f1"]
    yield "**2. Autoencoder against VAE**, digit 0 (three seeds), and β by `sweeps/mnist_beta.yaml`:\n"
    body = [
        [row["model"], *(compared("mnist_ae_against_vae.csv", m)[i] for m in metrics)]
        for i, row in enumerate(rows("mnist_ae_against_vae.csv"))
    ]
    yield from table(["model", *metrics], body)
    yield from study("mnist_beta.csv", "model.init_args.beta", metrics)


def fashion() -> Iterator[str]:
    points = grouped("fashion_mnist.csv", *GRID)
    dims, betas = (list(grouped("fashion_mnist.csv", key)) for key in GRID)
    seeds = len(next(iter(points.values())))
    yield (
        f"**3. β and latent size** on Fashion-MNIST, ankle boots held out (seeds: {seeds}): test AUROC, in brackets "
        "the cross-entropy of normal validation images in nats. The validation's anomalies are ankle boots too.\n"
    )

    def cell(found: list[dict[str, str]]) -> str:
        return f"{spread(column(found, 'test/auroc'), 3)} ({statistics.mean(column(found, 'val/bce')):.0f})"

    body = [[d, *(cell(points[f"{d}, {beta}"]) for beta in betas)] for d in dims]
    yield from table(["latent dimensions", *(f"β = {beta}" for beta in betas)], body)
    yield "![AUROC of the test split by latent size and β](fashion_mnist_auroc.png)\n"
    yield "![Reconstruction, KL and AUROC against β, a line for each latent size](fashion_mnist_curves.png)\n"


def fashion_classes() -> Iterator[str]:
    name, held_out = "fashion_mnist_classes.csv", "data.init_args.anomaly_classes"
    by_class = grouped(name, held_out)
    preferred = [max(found, key=lambda row: float(row["val/auroc"])) for found in by_class.values()]
    sizes = Counter(row[GRID[0]] for row in preferred)
    mean = statistics.mean(column(preferred, "test/auroc"))
    yield (
        "The same with each class held out in turn (`sweeps/fashion_mnist_classes.yaml`), at the corners of that grid, "
        "one seed; bold is what validation prefers, "
        + ", ".join(
            f"{dim} dimensions for {n} classes" for dim, n in sorted(sizes.items(), key=lambda size: int(size[0]))
        )
        + f", with a mean AUROC of {mean:.3f}.\n"
    )
    body = []
    for label, found in by_class.items():
        cells = (f"{float(row['test/auroc']):.3f}" for row in found)
        bold = (f"**{cell}**" if row in preferred else cell for cell, row in zip(cells, found, strict=True))
        body.append([CLOTHES[json.loads(label)[0]], *bold])
    means = (statistics.mean(column(found, "test/auroc")) for found in grouped(name, *GRID).values())
    body.append(["mean", *(f"{value:.3f}" for value in means)])
    corners = (f"latent size {row[GRID[0]]}, β = {row[GRID[1]]}" for row in next(iter(by_class.values())))
    yield from table(["held out", *corners], body)


def synthetic() -> Iterator[str]:
    yield "**4. The synthetic mixture** (three seeds), with an honest threshold and the source's, which leaks:\n"
    groups, leaking = (grouped(name, "model.init_args.beta") for name in ("synthetic.csv", "synthetic_leaking.csv"))
    metrics = ["test/precision", "test/recall", "test/f1"]
    body = []
    for beta, found in groups.items():
        body.append(
            [beta, "calibration", spread(column(found, "test/auroc")), *(spread(column(found, m)) for m in metrics)]
        )
        body.append(["", "test (leaks)", "", *(spread(column(leaking[beta], m)) for m in metrics)])
    yield from table(["beta", "threshold on", "test/auroc", *metrics], body)
    yield "The source's next steps (`sweeps/synthetic_scores.yaml`): AUROC by likelihood and score.\n"
    scores = ["ReconstructionError", "NegativeELBO", "ReconstructionProbability", "Mahalanobis", "Combined"]
    found = grouped("synthetic_scores.csv", "model.init_args.likelihood")
    body = [[name, *(spread(column(f, f"test/auroc/{s}")) for s in scores)] for name, f in found.items()]
    yield from table(["likelihood", *scores[:-1], "the last two combined"], body)
    yield "![Latent space of the synthetic mixture by PCA and t-SNE](synthetic_latent_map.png)\n"


def mixture() -> Iterator[str]:
    yield (
        "**5. The latent mixture** as a classifier: no label is seen before the clusters get their names. The source "
        "has a ReLU on σ, which can then be 0, and one on the output, which is no probability; here the encoder emits "
        "log σ² and the output is a sigmoid.\n"
    )
    yield "![Test digits in the latent space, by class and by cluster](mnist_gmm_mixture.png)\n"


def likelihood() -> Iterator[str]:
    paper = {"1": "86.76", "5": "85.54", "50": "84.78"}
    seeds = min(map(len, grouped("iwae.csv", "k").values()))
    yield (
        "**Importance weighted autoencoders** (`iwae_k1.yaml`, `iwae_k5.yaml`, `iwae_k50.yaml`): −log p(x) of MNIST's "
        f"10,000 binarised test digits in nats, at most, by 5000 samples of z. {bars(seeds)} "
        "The paper (Burda et al. 2016, table 1) trains 3,280 epochs; here the gradient is the doubly reparameterised "
        "one, and batch norm is frozen after a quarter of the epochs. Seconds are of one core that other runs shared.\n"
    )
    body = [
        [
            k,
            paper[k],
            spread(column(found, "test/nll_5000"), 2),
            f"{statistics.mean(column(found, 'test/nll_5000_error')):.2f}",
            spread(column(found, "test/loss"), 2),
            found[0]["epochs"],
            str(len(found)),
            time(column(found, "seconds")),
        ]
        for k, found in grouped("iwae.csv", "k").items()
    ]
    head = ["k", "paper", "found", "standard error over digits", "bound by k samples", "epochs", "seeds"]
    yield from table([*head, "median seconds per run"], body)
    curves = {k: column(rows(f"iwae_k{k}.csv"), "train/loss") for k in paper}
    taken = {k: statistics.median(column(rows(f"iwae_k{k}.csv")[1:], "seconds")) for k in paper}
    epochs, planned = len(curves["50"]), 600  # max_epochs of iwae_k50.yaml
    yield (
        f"k = 50 has been trained {epochs} epochs only, of {taken['50']:.0f} s each where k = 1 takes "
        f"{taken['1']:.1f} s and k = 5 {taken['5']:.1f} s (medians, one core). The bound on training digits in epoch "
        f"{epochs} of seed 0, which is all that can be compared: "
        + ", ".join(f"{curve[epochs - 1]:.2f} nats with k = {k}" for k, curve in curves.items())
        + f". Its {planned} epochs would take one core {planned * taken['50'] / 3600:.1f} hours; a GPU, for which an "
        "epoch of 4 TFLOP is less work than starting its 594 steps, some 20 minutes. Both are estimates.\n"
    )
