"""Each disease, planted, is named; a healthy model has none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vae_lightning import MLP, VAE, AnomalyModel, Arrays, Autoencoder, Gaussian, Run, fit
from vae_lightning.training.diagnosis import Diagnosis, diagnose
from vae_lightning.training.findings import (
    active_units,
    fall,
    of_alarms,
    of_scores,
    of_seeds,
    shuffle_gap,
    variance_at_bound,
)


def table() -> Arrays:
    """Ten columns of two hidden numbers; anomalies are within the range of every column but break their ties."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 10))
    normal = np.tanh(rng.normal(size=(1500, 2)) @ weights) + 0.1 * rng.normal(size=(1500, 10))
    strange = np.stack([rng.permutation(column)[:150] for column in normal.T], 1)
    x, labels = np.concatenate([normal, strange]), np.repeat([0, 1], [1500, 150])
    return Arrays(x, labels)


def vae(**kwargs: object) -> VAE:
    arguments: dict = {"latent_dim": 3, "beta": 0.1, "likelihood": Gaussian(0.05), **kwargs}
    return VAE([10], MLP([32]), **arguments)


@pytest.fixture(scope="module")
def healthy() -> Run:
    torch.set_num_threads(1)
    return _trained(vae(), 35)


def _trained(model: AnomalyModel, epochs: int) -> Run:
    return fit(model, table(), max_epochs=epochs, verbose=False)


def verdicts(found: Diagnosis) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in found.findings}


def test_a_healthy_model_has_nothing(healthy: Run) -> None:
    found = healthy.diagnose()
    assert not found.bad, found
    assert {"loss", "latent units", "KL by unit", "decoder", "training", "against ‖x‖"} < set(verdicts(found))
    assert "nothing wrong" in repr(found)
    assert all(finding.value in repr(found) for finding in found.findings)


def test_a_prior_that_outweighs_everything() -> None:
    found = verdicts(_trained(vae(beta=1000.0), 8).diagnose())
    assert found["latent units"] == found["KL by unit"] == found["decoder"] == "bad"


def test_a_decoder_that_is_cut_off(healthy: Run) -> None:
    model = copy.deepcopy(healthy.detector.model)
    with torch.no_grad():
        model.decoder[0][0].weight.zero_()
    found = verdicts(diagnose(model, healthy.data))
    assert found["decoder"] == "bad"
    assert found["latent units"] != "bad"  # the encoder is as it was


def test_an_untrained_net(healthy: Run) -> None:
    torch.manual_seed(1)
    model = vae()
    model.adopt(healthy.data)
    normal = torch.cat([batch.x for batch in healthy.data.calibration_dataloader()])
    model.detector.calibrate(normal)
    found = verdicts(diagnose(model, healthy.data))
    assert found["loss"] == "bad"
    noise = np.random.default_rng(0).normal(size=(2, 400))
    label = np.arange(400) % 2
    of_both = {finding.name: finding for finding in of_scores(noise[0], noise[1], noise[0] + 1, label, "val")}
    assert of_both["against an untrained net"].verdict == "bad"
    good = {finding.name: finding for finding in of_scores(noise[0] + 3 * label, noise[1], noise[0], label, "val")}
    assert good["against an untrained net"].verdict == good["against ‖x‖"].verdict == "good"


def test_a_training_that_was_cut_short(healthy: Run) -> None:
    assert verdicts(_trained(vae(), 6).diagnose())["training"] == "bad"
    assert fall([5, 4, 3, 2, 1]) == 0.25
    assert fall([5, 1, 1, 1, 1, 1]) == 0
    assert fall([1, 2, 3, 4, 5]) == fall([2, 1]) == 0


def test_a_variance_at_its_bound(healthy: Run) -> None:
    model = copy.deepcopy(healthy.detector.model)
    x = torch.randn(50, 10)
    assert variance_at_bound(model, x) is None  # it is given, not learned
    model.likelihood = Gaussian("per_feature", min_logvar=-2.0)
    model.likelihood.build([10])
    model.likelihood._logvar.data = torch.tensor([-3.0] * 4 + [0.0] * 6)
    assert variance_at_bound(model, x) == pytest.approx(0.4)
    found = {finding.name: finding for finding in diagnose(model, healthy.data).findings}
    assert found["log-variance"].verdict == "bad"
    assert "min_logvar" in found["log-variance"].remedy


def test_a_kl_term_without_effect() -> None:
    assert verdicts(_trained(vae(beta=1e-6), 6).diagnose())["KL by unit"] == "note"


class Norm(VAE):
    """Scores by ‖x‖, whatever its scores are called: it reconstructs nothing but the mean."""

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def test_a_score_that_is_the_norm() -> None:
    found = _trained(Norm([10], MLP([8]), latent_dim=2), 2).diagnose()
    assert verdicts(found)["against ‖x‖"] == "bad"
    assert "no better than those of the norm" in repr(found)
    data = Arrays(np.random.default_rng(0).normal(size=(300, 10)))  # without any anomaly
    found = fit(Norm([10], MLP([8]), latent_dim=2), data, max_epochs=2, verbose=False).diagnose()
    assert verdicts(found)["against ‖x‖"] == "bad"


def test_false_alarms_beside_their_promise(healthy: Run) -> None:
    model = healthy.detector.model  # 120 calibration samples, α = 0.05
    for alarms, verdict in ((5, "good"), (40, "bad")):
        assert of_alarms(model, np.arange(100) < alarms)[0].verdict == verdict


def test_two_seeds() -> None:
    assert of_seeds(0.99, "version_1").verdict == "good"
    assert of_seeds(0.5, "version_1").verdict == "bad"


def test_active_units_and_the_shuffle_gap(healthy: Run) -> None:
    mu = torch.randn(5000, 3) * torch.tensor([1.0, 0.2, 0.05])
    assert active_units(mu).tolist() == [True, True, False]
    model = healthy.detector.model
    x = model.prepared(torch.cat([batch.x for batch in healthy.data.validation_normals_dataloader()]))
    with torch.no_grad():
        assert 0.5 < shuffle_gap(model, x) < 1


def test_an_autoencoder_is_looked_over_as_well() -> None:
    model = Autoencoder([10], MLP([16]), latent_dim=2)
    assert "KL by unit" not in verdicts(_trained(model, 5).diagnose())


def test_the_command(fitted: Path, run: Callable[[str], int], capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    assert run(f"diagnose {fitted}") == 0
    printed = capsys.readouterr().out
    assert "latent units" in printed
    assert "checks" in printed
    assert run("diagnose nowhere") == 2
    assert capsys.readouterr().err.startswith("error: nowhere is not a run (it has no config.yaml)")
