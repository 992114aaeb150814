"""Corrupted images as a source of anomalies."""

import pytest
import torch

from vae_lightning.data import ANOMALY, NORMAL, Corrupted, Digits, SyntheticMixture
from vae_lightning.errors import UserError

KINDS = ["noise", "occlusion", "inversion"]


@pytest.mark.parametrize("kind", KINDS)
def test_images_stay_bytes_and_depend_on_the_seed_alone(kind):
    clean, (train, test) = Digits().load(), Corrupted(Digits(), kind).load()
    for part, original in zip((train, test), clean, strict=True):
        assert part.x.dtype == torch.uint8
        assert part.x.shape == original.x.shape
        assert torch.equal(part.target, original.target)
        assert (part.x != original.x).flatten(1).any(1).all()
    again, other = Corrupted(Digits(), kind).load(), Corrupted(Digits(), kind, seed=1).load()
    assert torch.equal(train.x, again[0].x)
    assert torch.equal(test.x, again[1].x)
    assert torch.equal(train.x, other[0].x) == (kind == "inversion")


def test_inversion():
    (clean, _), (full, _), (half, _) = Digits().load(), Corrupted(Digits(), "inversion").load(), half_inverted().load()
    assert torch.equal(full.x, 255 - clean.x)
    assert set(half.x.unique().tolist()) <= {127, 128}  # half way lies grey


def half_inverted():
    return Corrupted(Digits(), "inversion", amount=0.5)


def test_noise_has_the_standard_deviation_that_was_asked_for():
    clean, noisy = Digits().load()[0].x, Corrupted(Digits(), amount=0.1).load()[0].x
    middle = (clean > 100) & (clean < 155)  # four standard deviations and more from the cut
    difference = (noisy.float() - clean.float())[middle] / 255
    assert difference.std().item() == pytest.approx(0.1, rel=0.03)
    assert difference.mean().item() == pytest.approx(0.0, abs=0.005)


def test_occlusion_hides_a_square_that_covers_the_centre():
    clean = Digits(size=28).load()[0].x
    hidden = Corrupted(Digits(size=28), "occlusion").load()[0].x
    white = Corrupted(White(size=28), "occlusion").load()[0].x == 0
    assert (white.sum((1, 2, 3)) == 14**2).all()
    for dim in (2, 3):  # a square: each row that is touched is touched 14 times, and the rows are neighbours
        touched = white.any(dim).squeeze(1)
        assert (touched.sum(1) == 14).all()
        assert (touched.int().diff(dim=1).abs().sum(1) <= 2).all()
    assert white[:, :, 13:15, 13:15].flatten(1).any(1).all()
    assert len(white.flatten(1).unique(dim=0)) > 100  # at many places
    assert (hidden <= clean).all()


class White(Digits):
    """Digits that are white all over."""

    def load(self):
        return tuple(part._replace(x=torch.full_like(part.x, 255)) for part in super().load())


def test_it_supplies_the_anomalies_of_another_data_module():
    data = Digits(anomalies_from=Corrupted(Digits(), "inversion"), eval_batch_size=10_000)
    clean_test = Digits().load()[1].x
    (batch,) = data.test_dataloader()
    assert (batch.label == NORMAL).sum() == (batch.label == ANOMALY).sum() == len(clean_test)
    assert torch.equal(batch.x[batch.label == ANOMALY], 255 - clean_test)
    (batch,) = data.val_dataloader()
    assert (batch.label == ANOMALY).sum() == (batch.label == NORMAL).sum()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Corrupted(Digits(), amount=0.0), "amount = 0.0"),
        (lambda: Corrupted(Digits(), amount=1.5), "amount = 1.5"),
        (lambda: Corrupted(Digits(), "blur"), "kind = blur"),
        (lambda: Corrupted(SyntheticMixture()), "SyntheticMixture"),
    ],
)
def test_what_cannot_be_is_refused(build, words):
    with pytest.raises(UserError, match=words):
        build()
