"""The README's section of results, out of the files beside this script: nobody types a figure.

python results/report.py            # prints it
python results/report.py --write    # puts it between the README's markers
"""

from __future__ import annotations

import csv
import json
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


def standard_vae() -> Iterator[str]:
    yield "**The standard VAE on MNIST** (`mnist_vae.yaml`, three seeds): training loss in nats, beside its source's.\n"
    claimed = {"8": "107.38", "9": "106.78", "10": "106.37"}
    found = rows("mnist_vae.csv")
    losses = {epoch: [float(row["train/loss"]) for row in found if row["epoch"] == epoch] for epoch in claimed}
    yield from table(["epoch", "source", "found"], [[e, claimed[e], spread(losses[e], 2)] for e in claimed])
    yield "AUROC of the same models by source of anomalies:\n"
    sources: dict[str, list[dict[str, str]]] = {}
    for row in rows("mnist_vae_sources.csv"):
        sources.setdefault(row["anomalies"], []).append(row)
    scores = ["ReconstructionError", "NegativeELBO"]
    body = [
        [name, *(spread([float(r[f"auroc/{s}"]) for r in found]) for s in scores)] for name, found in sources.items()
    ]
    yield from table(["anomalies", *scores], body)


def study(name: str, key: str, metrics: list[str]) -> Iterator[str]:
    """A sweep's metrics for each value of ``key``, over its seeds."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows(name):
        groups.setdefault(row[key], []).append(row)
    body = [[value, *(spread([float(row[m]) for row in found]) for m in metrics)] for value, found in groups.items()]
    yield from table([key.rpartition(".")[2], *metrics], body)


def autoencoder_against_vae() -> Iterator[str]:
    yield "**Autoencoder against VAE** (`mnist_autoencoder.yaml`, `mnist_beta_vae.yaml`; digit 0, three seeds):\n"
    metrics = ["val/auroc", "test/auroc", "test/f1"]
    body = []
    for row in rows("mnist_ae_against_vae.csv"):
        body.append([row["model"], *(f"{float(row[m]):.4f} ± {float(row[f'{m} std']):.4f}" for m in metrics)])
    yield from table(["model", *metrics], body)


def one_class(names: dict[str, str], scores: dict[str, str]) -> Iterator[str]:
    """Mean AUROC over the ten classes, of each score."""
    body = []
    for name, title in names.items():
        found = rows(name)
        means = [statistics.mean(float(row[metric]) for row in found) for metric in scores]
        body.append([title, str(len(found)), *(f"{mean:.4f}" for mean in means)])
    yield from table(["data set", "runs", *scores.values()], body)


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
    lines = [*standard_vae()]
    lines += ["**β on the synthetic mixture** (`sweeps/synthetic.yaml`, three seeds; chosen on validation):\n"]
    lines += study("synthetic.csv", "model.init_args.beta", ["val/auroc", "test/auroc", "test/f1"])
    lines += autoencoder_against_vae()
    lines += ["**β for digit 0 of MNIST** (`sweeps/mnist_beta.yaml`, three seeds; chosen on validation):\n"]
    lines += study("mnist_beta.csv", "model.init_args.beta", ["val/auroc", "test/auroc", "test/f1"])
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
    lines += speed()
    return "\n".join(lines)


def main() -> None:
    if "--write" in sys.argv[1:]:
        between = re.compile(f"({re.escape(MARKERS[0])}).*({re.escape(MARKERS[1])})", re.DOTALL)
        README.write_text(between.sub(lambda match: match[1] + report() + match[2], README.read_text()))
    else:
        print(report())


if __name__ == "__main__":
    main()
