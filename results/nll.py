"""−log p(x) of MNIST's binarised test digits under the model of a checkpoint, by fewer passes, as a CSV file.

python results/nll.py 300 lightning_logs/iwae_k1/version_0/checkpoints/last.ckpt > results/iwae.csv

The bound by 5000 samples of z on all digits is what a run's own test gives (the callback Evidence). Here all digits
have a bound by 20 samples, and some, drawn at random, tell how much lower the one by 5000 is: unbiased for the mean of
the latter, with the standard error of the difference.
"""

import csv
import sys

import torch
from torch import Tensor

from vae_lightning.data import MNIST, NORMAL, FashionMNIST
from vae_lightning.models import IWAE
from vae_lightning.scores import ImportanceWeighted


def bounds(model: IWAE, x: Tensor, k: int) -> Tensor:
    """Of each digit, (N,), with new noise for every hundred: errors cancel out."""
    pieces = enumerate(x.split(100))
    return torch.cat([ImportanceWeighted(k, seed)(model, piece).double() for seed, piece in pieces])


@torch.inference_mode()
def main(images: int, checkpoints: list[str]) -> None:
    data = MNIST(anomalies_from=FashionMNIST(), binarize=True, val_fraction=0.01, batch_size=100)
    x = torch.cat([batch.x[batch.label == NORMAL] for batch in data.test_dataloader()])
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["k", "epochs", "images", "nll_5000", "error"])
    for path in checkpoints:
        model = IWAE.load_from_checkpoint(path, map_location="cpu").eval()
        loose = bounds(model, x, 20)
        difference = loose[:images] - bounds(model, x[:images], 5000)
        nll, error = loose.mean() - difference.mean(), difference.std() / images**0.5
        epochs = torch.load(path, map_location="cpu", weights_only=True)["epoch"] + 1
        writer.writerow([model.k, epochs, images, f"{nll:.4f}", f"{error:.4f}"])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
