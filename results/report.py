"""The README's section of results, out of the files beside this script: nobody types a figure.

python results/report.py            # prints it
python results/report.py --write    # puts it between the README's markers
"""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARKERS = ("<!-- results/report.py --write -->\n", "<!-- end -->\n")


def rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(newline="") as file:
        return list(csv.DictReader(file))


def spread(values: list[float], digits: int = 4) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def table(head: list[str], body: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in body)
    yield ""


def grouped(name: str, key: str) -> dict[str, list[dict[str, str]]]:
    """The rows of a file by their value of ``key``; those of one group differ in the seed."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows(name):
        groups.setdefault(row[key], []).append(row)
    return groups


def column(found: list[dict[str, str]], metric: str) -> list[float]:
    return [float(row[metric]) for row in found]


def study(name: str, key: str, metrics: list[str], digits: int = 4) -> Iterator[str]:
    """A sweep's metrics for each value of ``key``, over its seeds."""
    groups = grouped(name, key)
    body = [[value, *(spread(column(found, m), digits) for m in metrics)] for value, found in groups.items()]
    yield from table([key.rpartition(".")[2], *metrics], body)


def chosen(name: str, key: str) -> tuple[str, list[dict[str, str]]]:
    """The value of ``key`` with the best mean AUROC on validation, and its rows."""
    return max(grouped(name, key).items(), key=lambda group: statistics.mean(column(group[1], "val/auroc")))


def compared(name: str, metric: str, digits: int = 4) -> list[str]:
    """A metric of each group of ``compare``'s table, as mean ± standard deviation."""
    return [f"{float(row[metric]):.{digits}f} ± {float(row[f'{metric} std']):.{digits}f}" for row in rows(name)]


def claimed_beside_found() -> Iterator[str]:
    yield "**Claimed beside found.** What each source says, and what came out here: one experiment each.\n"
    vae, sources = grouped("mnist_vae.csv", "epoch"), grouped("mnist_vae_sources.csv", "anomalies")
    beta, best = chosen("mnist_beta.csv", "model.init_args.beta")
    fashion = rows("fashion_mnist.csv")
    peak = max(fashion, key=lambda row: float(row["val/auroc"]))
    synthetic = grouped("synthetic.csv", "model.init_args.beta")
    leaking = grouped("synthetic_leaking.csv", "model.init_args.beta")
    annealed = next(value for value in synthetic if value.startswith("Linear"))
    body = [
        [
            "1. the standard VAE, `mnist_vae.yaml`",
            "training loss 107.38, 106.78, 106.37 nats at epochs 8, 9, 10",
            ", ".join(spread(column(vae[epoch], "train/loss"), 2) for epoch in ("8", "9", "10"))
            + f"; clothes among digits: AUROC {spread(column(sources['Fashion-MNIST'], 'auroc/ReconstructionError'))}",
            "3",
            time(column(rows("mnist_vae_runs.csv"), "seconds")),
        ],
        [
            "2. autoencoder against β-VAE, `mnist_autoencoder.yaml`, `mnist_beta_vae.yaml`, `sweeps/mnist_beta.yaml`",
            "with the right β the VAE detects better",
            f"AUROC {compared('mnist_ae_against_vae.csv', 'test/auroc')[0]} against "
            f"{spread(column(best, 'test/auroc'))} with the β that validation prefers, {beta}: "
            + verdict(rows("mnist_ae_against_vae.csv")[0], column(best, "test/auroc")),
            "3",
            time(column(rows("mnist_beta.csv"), "seconds")),
        ],
        [
            "3. β and latent size, `sweeps/fashion_mnist.yaml`",
            "both trade reconstruction against detection",
            f"AUROC from {min(column(fashion, 'test/auroc')):.3f} to {max(column(fashion, 'test/auroc')):.3f}; "
            f"{float(peak['test/auroc']):.3f} with what validation prefers: {peak['model.init_args.latent_dim']} "
            f"dimensions and β = {peak['model.init_args.beta']}",
            "1",
            time(column(fashion, "seconds")),
        ],
        [
            "4. β and annealing, `beta_vae.yaml`, `sweeps/synthetic.yaml`",
            "annealing β serves detection; threshold at the 95th percentile of normal test samples",
            f"AUROC {spread(column(synthetic[annealed], 'test/auroc'))} annealed, "
            f"{spread(column(synthetic['1'], 'test/auroc'))} with a constant β = 1, "
            f"{spread(column(synthetic['0'], 'test/auroc'))} without the KL term; "
            f"F1 {spread(column(synthetic[annealed], 'test/f1'))} with an honest threshold, "
            f"{spread(column(leaking[annealed], 'test/f1'))} with the leaking one",
            "3",
            time(column(rows("synthetic.csv"), "seconds")),
        ],
        [
            "5. a mixture on the latent space, `mnist_gmm.yaml`",
            "its clusters classify digits",
            ", ".join(
                f"{title} {value}"
                for metric, title in (("test/accuracy", "accuracy"), ("test/nmi", "NMI"), ("test/ari", "ARI"))
                for value in compared("mnist_gmm_test.csv", metric, 3)
            ),
            rows("mnist_gmm_test.csv")[0]["n"],
            time(column(rows("mnist_gmm_test.csv"), "seconds")),
        ],
    ]
    yield from table(["experiment", "claimed", "found", "seeds", "seconds a run"], body)


def time(seconds: list[float]) -> str:
    low, high = min(seconds), max(seconds)
    return f"{low:.0f}" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f} to {high:.0f}"


def verdict(baseline: dict[str, str], found: list[float]) -> str:
    """Whether two means differ by more than twice the standard error of their difference."""
    n = float(baseline["n"])
    error = math.hypot(float(baseline["test/auroc std"]) / n**0.5, statistics.stdev(found) / len(found) ** 0.5)
    difference = statistics.mean(found) - float(baseline["test/auroc"])
    says = "confirmed" if difference > 2 * error else "refuted" if difference < -2 * error else "not to be told apart"
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
    yield (
        "**3. β and latent size** on Fashion-MNIST, ankle boots held out (one seed): more room and a smaller β always "
        "reconstruct better; what they detect is another matter.\n"
    )
    yield "![AUROC of the test split by latent size and β](results/fashion_mnist_auroc.png)\n"
    yield "![Reconstruction, KL and AUROC against β, a line for each latent size](results/fashion_mnist_curves.png)\n"


def synthetic() -> Iterator[str]:
    yield "**4. The synthetic mixture** (three seeds), with an honest threshold and the source's, which leaks:\n"
    groups, leaking = (grouped(name, "model.init_args.beta") for name in ("synthetic.csv", "synthetic_leaking.csv"))
    metrics = ["test/precision", "test/recall", "test/f1"]
    body = []
    for beta, found in groups.items():
        body.append(
            [beta, "validation", spread(column(found, "test/auroc")), *(spread(column(found, m)) for m in metrics)]
        )
        body.append(["", "test (leaks)", "", *(spread(column(leaking[beta], m)) for m in metrics)])
    yield from table(["beta", "threshold on", "test/auroc", *metrics], body)
    yield "The source's next steps (`sweeps/synthetic_scores.yaml`): AUROC by likelihood and score.\n"
    scores = ["ReconstructionError", "NegativeELBO", "ReconstructionProbability", "Mahalanobis", "Combined"]
    found = grouped("synthetic_scores.csv", "model.init_args.likelihood")
    body = [[name, *(spread(column(f, f"test/auroc/{s}")) for s in scores)] for name, f in found.items()]
    yield from table(["likelihood", *scores[:-1], "the last two combined"], body)
    yield "![Latent space of the synthetic mixture by PCA and t-SNE](results/synthetic_latent_map.png)\n"


def mixture() -> Iterator[str]:
    yield (
        "**5. The latent mixture** as a classifier: no label is seen before the clusters get their names. The source "
        "has a ReLU on σ, which can then be 0, and one on the output, which is no probability; here the encoder emits "
        "log σ² and the output is a sigmoid.\n"
    )
    yield "![Test digits in the latent space, by class and by cluster](results/mnist_gmm_mixture.png)\n"


def one_class(names: dict[str, str], scores: dict[str, str]) -> Iterator[str]:
    """Mean AUROC over the ten classes, of each score."""
    body = []
    for name, title in names.items():
        found = rows(name)
        means = [statistics.mean(float(row[metric]) for row in found) for metric in scores]
        body.append([title, str(len(found)), *(f"{mean:.4f}" for mean in means)])
    yield from table(["data set", "runs", *scores.values()], body)


def out_of_distribution() -> Iterator[str]:
    found = rows("out_of_distribution.csv")
    yield f"**Out of distribution** (`out_of_distribution.yaml`, {found[0]['n']} seeds): test AUROC of each score.\n"
    titles = {"FashionMNIST": "clothing in, digits out", "MNIST": "digits in, clothing out"}
    scores = [key.split("/")[-1] for key in found[0] if key.startswith("test/auroc/") and not key.endswith("std")]
    columns = [compared("out_of_distribution.csv", f"test/auroc/{score}") for score in scores]
    yield from table(
        ["score", *(titles[row["data"]] for row in found)],
        [[score, *values] for score, values in zip(scores, columns, strict=True)],
    )


def tried() -> Iterator[str]:
    yield "**Tried for `conv_vae.yaml` and left out**: validation AUROC, mean of the classes 2, 6 and 8, one seed.\n"
    found = rows("conv_vae_tried.csv")
    head = list(found[0])
    yield from table(head, [[row[key] for key in head] for row in found])


def speed() -> Iterator[str]:
    times, memory = (json.loads((HERE / name).read_text()) for name in ("epoch_time.json", "peak_memory.json"))
    yield f"**Speed** (`benchmarks/epoch_time.py`; {times['machine']}): what `fit` takes of a loop written by hand.\n"
    rivals = {"in memory": "tensors in memory, fused Adam", "dataset": "Dataset, ToTensor, DataLoader"}
    parts = ["training", "whole epoch"]
    body = [
        [title, *(f"{times[f'{part}, {name}']['fit takes']:.2f}×" for part in parts)] for name, title in rivals.items()
    ]
    yield from table(["loop", *parts], body)
    above, data = memory["above"], memory["data set"]
    yield f"Peak memory on MNIST: {above:.0f} MB above the bare imports, for {data:.0f} MB of data.\n"


def report() -> str:
    sources = claimed_beside_found, standard_vae, autoencoder_against_vae, fashion, synthetic, mixture
    lines = [line for source in sources for line in source()]
    lines += [
        "**One-class detection** (`sweeps/mnist_one_class.yaml`): mean test AUROC over the ten classes, one seed.\n"
    ]
    scores = {
        "test/auroc": "LatentDensity",
        "test/auroc/KNearestNeighbours": "KNearestNeighbours",
        "test/auroc/NAP": "NAP",
        "test/auroc/ReconstructionError": "ReconstructionError",
    }
    studies = {"mnist_one_class.csv": "MNIST", "fashion_mnist_one_class.csv": "Fashion-MNIST"}
    lines += one_class(studies, scores)
    lines += [*out_of_distribution(), *tried(), *speed()]
    return "\n".join(lines)


def main() -> None:
    if "--write" in sys.argv[1:]:
        between = re.compile(f"({re.escape(MARKERS[0])}).*({re.escape(MARKERS[1])})", re.DOTALL)
        README.write_text(between.sub(lambda match: match[1] + report() + match[2], README.read_text()))
    else:
        print(report())


if __name__ == "__main__":
    main()
