"""The pictures of the β × latent-size study over all its seeds, each of them a study of its own.

python results/fashion_mnist.py
"""

import json

from sections.common import HERE, rows

from vae_lightning.studies.sweep.pictures import curves, heatmap
from vae_lightning.studies.sweep.plan import SEED
from vae_lightning.studies.sweep.plan_file import read
from vae_lightning.studies.sweep.points import Row, points


def main() -> None:
    plan = read(HERE.parent / "configs" / "sweeps" / "fashion_mnist.yaml", {}, {})
    keys, metrics = list(plan.search), [*plan.objectives, *plan.show]
    found = []
    for i, row in enumerate(rows("fashion_mnist.csv")):
        values = {key: json.loads(row[key]) for key in (*keys, SEED)}
        known = {name: float(row[name]) for name in metrics}
        found.append(Row(i, row["state"], values, known, epochs=None, seconds=None, attempts=1, error=""))
    together = points(found)
    heatmap(plan, together, keys, "test/auroc").savefig(HERE / "fashion_mnist_auroc.png", dpi=110)
    curves(plan, together, keys, metrics).savefig(HERE / "fashion_mnist_curves.png", dpi=110)


if __name__ == "__main__":
    main()
