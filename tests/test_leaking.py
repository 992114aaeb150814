"""The threshold that leaks says so, and is the percentile it claims to be."""

import numpy as np
import torch

from vae_lightning.thresholds import LeakingPercentile, Percentile


def test_only_the_leaking_one_is_fitted_on_test_samples():
    assert (Percentile.fitted_on, Percentile().leaks) == ("val", False)
    assert (LeakingPercentile.fitted_on, LeakingPercentile().leaks) == ("test", True)


def test_it_is_the_percentile_of_whatever_it_is_fitted_on():
    validation, test = torch.randn(500), 1 + torch.randn(700)
    threshold = LeakingPercentile(90)
    for scores in (validation, test):
        threshold.fit(scores)
        np.testing.assert_allclose(threshold.value, np.quantile(scores.double(), 0.9))
    assert threshold(test).float().mean() == 0.1
