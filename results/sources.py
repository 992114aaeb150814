"""AUROC of models trained on all digits of MNIST, for several sources of anomalies, as a CSV file.

python results/sources.py lightning_logs/mnist_vae/version_*/checkpoints/best.ckpt > results/mnist_vae_sources.csv
"""

import csv
import sys
from pathlib import Path

import yaml
from lightning.pytorch import Trainer

from vae_lightning.data import MNIST, Corrupted, FashionMNIST
from vae_lightning.models import VAE
from vae_lightning.training.callbacks import DetectionMetrics

SOURCES = {
    "Fashion-MNIST": FashionMNIST(),
    "noise": Corrupted(MNIST(), "noise"),
    "occlusion": Corrupted(MNIST(), "occlusion"),
    "inversion": Corrupted(MNIST(), "inversion"),
}
METRICS = ["auroc/ReconstructionError", "auroc/NegativeELBO", "f1", "precision", "recall", "threshold"]


def main(checkpoints: list[Path]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["experiment", "seed", "anomalies", *METRICS])
    for path in checkpoints:
        run = path.parent.parent
        seed = yaml.safe_load((run / "config.yaml").read_text())["seed_everything"]
        model = VAE.load_from_checkpoint(path, map_location="cpu")
        for name, source in SOURCES.items():
            data = MNIST(anomalies_from=source, val_fraction=0.01, calibration_fraction=0.0)  # as in mnist_vae.yaml
            trainer = Trainer(
                accelerator="cpu",
                logger=False,
                callbacks=[DetectionMetrics()],
                enable_progress_bar=False,
                use_distributed_sampler=False,
            )
            (values,) = trainer.test(model, data, verbose=False)
            writer.writerow([run.parent.name, seed, name, *(f"{values[f'test/{metric}']:.6g}" for metric in METRICS)])


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:]])
