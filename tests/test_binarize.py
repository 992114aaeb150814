"""Binarised images: the right probabilities, new draws in each epoch of training, fixed ones elsewhere, resumable."""

import numpy as np
import torch
from numpy.random import SeedSequence

from vae_lightning.data import MNIST, Part


class Flat(MNIST):
    """Two classes of images of one grey value each, 51 (p = 0.2) and 255."""

    def load(self):
        target = torch.arange(200) % 2
        x = torch.where(target == 0, 51, 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous()
        return Part(x, target), Part(x.clone(), target)


def flat(**kwargs):
    return Flat(normal_classes=[0], anomaly_classes=[1], batch_size=32, eval_batch_size=64, **kwargs)


def images(loader):
    batches = list(loader)
    return torch.cat([b.x for b in batches]), torch.cat([b.label for b in batches])


def test_pixels_are_zero_or_one_with_their_grey_value_for_probability():
    data = flat(binarize=True)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        x, label = images(loader)
        assert x.dtype == torch.uint8
        assert set(x.unique().tolist()) == {0, 255}
        x = x / 255
        pixels = (label == 0).sum().item() * 28**2
        assert abs(x[label == 0].mean() - 0.2) < 4 * (0.2 * 0.8 / pixels) ** 0.5
        assert (x[label == 1] == 1).all()
        first, second = x[label == 0][:2]
        assert not torch.equal(first, second)  # each image its own draw
    assert images(flat().train_dataloader())[0].unique().tolist() == [51]


def test_training_draws_anew_each_epoch_and_the_same_again_after_a_resume():
    torch.manual_seed(0)
    loader, resumed = flat(binarize=True).train_dataloader(), flat(binarize=True).train_dataloader()
    first, _ = images(loader)
    loader.set_epoch(1)
    iterator = iter(loader)
    assert not torch.equal(next(iterator).x, first[:32])
    state = loader.state_dict()
    resumed.set_epoch(1)
    resumed.load_state_dict(state)
    for left, right in zip(iterator, resumed, strict=True):
        assert torch.equal(left.x, right.x)


def test_validation_and_test_are_the_same_whatever_the_seed_of_the_training_and_the_batch_size():
    torch.manual_seed(0)
    one = flat(binarize=True)
    torch.manual_seed(1)
    other = flat(binarize=True)
    other.eval_batch_size = 7
    for split in ("val", "val_normals", "test", "calibration"):
        assert torch.equal(images(one.loader(split))[0].sum(0), images(other.loader(split))[0].sum(0))
    normal = images(one.val_dataloader())
    assert torch.equal(normal[0][normal[1] == 0].sum(0), images(one.validation_normals_dataloader())[0].sum(0))


def test_draws_are_those_of_their_seeds():
    """Random < x / 255: of validation's normal samples and anomalies, then of the test's, keyed by the split's seed.

    In training keyed by the run's seed, epoch, rank and position.
    """
    data, plain = flat(binarize=True, seed=3), flat(seed=3)
    generator = torch.Generator().manual_seed(3)
    for split in ("val", "test"):
        (x, label), (grey, _) = images(data.loader(split)), images(plain.loader(split))
        for of in (0, 1):
            chance = grey[label == of] / 255
            expected = (torch.rand(chance.shape, generator=generator) < chance).float()
            assert torch.equal(x[label == of] / 255, expected)
    torch.manual_seed(7)
    loader, greys = data.train_dataloader(), plain.train_dataloader()
    for position, (batch, grey) in enumerate(zip(loader, greys, strict=True), 1):
        seed = SeedSequence(7, spawn_key=(0, 0, 0)).generate_state(10, np.uint64)[position]
        generator.manual_seed(int(seed))
        assert torch.equal(batch.row, grey.row)
        chance = grey.x.float() / 255
        assert torch.equal(batch.x / 255, (torch.rand(chance.shape, generator=generator) < chance).float())


def test_a_calibration_split_leaves_the_other_draws_as_they_are():
    one, other = flat(binarize=True), flat(binarize=True, calibration_fraction=0.0)
    for split in ("val", "test"):
        assert torch.equal(images(one.loader(split))[0], images(other.loader(split))[0])
