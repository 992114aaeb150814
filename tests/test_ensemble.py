"""An ensemble is its members: each as if trained alone, and their scores' mean on one scale."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vae_lightning import Arrays, Detector, VAEDetector, fit
from vae_lightning.errors import UserError
from vae_lightning.models import IWAE, VAE, AnomalyModel, Autoencoder, Ensemble
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP, Conv
from vae_lightning.scores import Mahalanobis, NegativeELBO, ReconstructionError

Member = Callable[[], AnomalyModel]
MEMBERS: dict[str, Member] = {
    "VAE": lambda: VAE([10], MLP([16, 8]), 3, Gaussian("per_feature"), beta=2.0),
    "VAE, batch norm, SGD": lambda: VAE(
        [10], MLP([16], batch_norm=True), 3, Gaussian("predicted"), optimizer=partial(torch.optim.SGD, lr=1e-3)
    ),
    "IWAE": lambda: IWAE([10], MLP([16, 8]), 3, Gaussian("shared"), k=3),
    "Autoencoder, denoising": lambda: Autoencoder([10], MLP([16], "SiLU"), 3, swap=0.2),
}


def rows(n: int = 500, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 3)) @ np.random.default_rng(1).normal(size=(3, 10))
    return (factors + 0.3 * rng.normal(size=(n, 10))).astype(np.float32)


def trained(model: AnomalyModel, seed: int = 5, **kwargs: Any) -> Any:
    """After the last epoch: which one is the best is asked of all members together."""
    steps = {"limit_val_batches": 0, "max_epochs": 3, **kwargs}
    return fit(model, Arrays(rows(), test_fraction=0), seed=seed, verbose=False, **steps).detector.model


@pytest.fixture(scope="module")
def whole() -> Any:
    scores = [ReconstructionError(), Mahalanobis(), NegativeELBO()]
    return trained(Ensemble([10], MEMBERS["VAE"](), 3, "own", scores=scores), limit_val_batches=1.0)


@pytest.mark.filterwarnings("ignore:.*nothing raises an alarm")
@pytest.mark.parametrize("name", MEMBERS)
def test_each_member_is_what_a_run_alone_comes_to(name: str) -> None:
    """With the seed that it stands for: weights, noise, what is swapped and the order of samples."""
    make, x = MEMBERS[name], torch.from_numpy(rows(50, 2))
    apart = trained(Ensemble([10], make(), 3, "own")).apart()
    outputs = []
    for k, member in enumerate(apart):
        alone = trained(make(), seed=5 + k)
        with torch.no_grad():
            mine, its = (model.reconstruct(alone.prepared(x)) for model in (member, alone))
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)
        for one, other in zip(member.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        outputs.append(mine)
    assert (outputs[0] - outputs[1]).abs().max() > 0.01


def test_in_evaluation_each_is_given_the_noise_of_its_own_seed() -> None:
    """The ensemble's loss is the mean of those that runs alone come to."""

    def loss(model: AnomalyModel, seed: int) -> float:
        run = fit(model, Arrays(rows(), test_fraction=0), seed=seed, verbose=False, max_epochs=1)
        return run.metrics["val/loss"]

    alone = [loss(MEMBERS["IWAE"](), 5 + k) for k in range(3)]
    assert loss(Ensemble([10], MEMBERS["IWAE"](), 3, "own"), 5) == pytest.approx(np.mean(alone), rel=1e-5)
    assert np.std(alone) > 1e-3


def test_with_shared_orders_the_first_is_the_run_alone_and_none_changes_another() -> None:
    apart = trained(Ensemble([10], MEMBERS["VAE"](), 3)).apart()
    alone, two = trained(MEMBERS["VAE"]()), trained(Ensemble([10], MEMBERS["VAE"](), 2)).apart()
    for member, other in ((apart[0], alone), (apart[1], two[1])):
        for mine, its in zip(member.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)


def test_an_order_of_its_own_is_an_argument_of_the_model_and_not_left_behind() -> None:
    data = Arrays(rows(), test_fraction=0)
    for model, size in ((Ensemble([10], MEMBERS["VAE"](), 3, "own"), 3), (MEMBERS["VAE"](), 1)):
        fit(model, data, max_epochs=1, verbose=False)
        x = [batch.x for batch in data.train_dataloader()]
        assert sum(map(len, x)) == size * len(data.loader("train").split)
        first, *others = x[0].chunk(size)
        assert all(not torch.equal(first, other) for other in others)


def test_scores_are_the_mean_of_the_members_own_each_on_its_scale(whole: Any) -> None:
    x = torch.from_numpy(rows(40, 3))
    val = torch.cat([batch.x for batch in _data(whole).validation_normals_dataloader()])
    for name, kind in (("ReconstructionError", ReconstructionError()), ("NegativeELBO", NegativeELBO())):
        with torch.no_grad():
            found, usual = ([kind(m, whole.prepared(t)) for m in whole.apart()] for t in (x, val))
        scaled = torch.stack([(s - u.mean()) / u.std(correction=0) for s, u in zip(found, usual, strict=True)])
        answer = whole.detector(x)
        torch.testing.assert_close(answer.each[name], scaled.mean(0), rtol=1e-4, atol=1e-4)
        if name == whole.detector.names[0]:
            torch.testing.assert_close(answer.each["Spread"], scaled.std(0, correction=0), rtol=1e-4, atol=1e-4)
    assert list(answer.each) == ["ReconstructionError", "Mahalanobis", "NegativeELBO", "Spread"]


def _data(model: Any) -> Arrays:
    data = Arrays(rows(), test_fraction=0)
    data.setup()
    return data


def test_members_disagree_more_about_what_they_have_not_seen(whole: Any) -> None:
    near, far = whole.detector(rows(200, 4)).each["Spread"], whole.detector(4 * rows(200, 4)).each["Spread"]
    assert np.median(far) > 3 * np.median(near)


def test_a_file_brings_it_back_and_explains_it(whole: Any, tmp_path: Path) -> None:
    x = rows(20, 3)
    whole.detector.save(tmp_path / "whole.ckpt")
    loaded = Detector.load(tmp_path / "whole.ckpt")
    for name, score in whole.detector(x).each.items():
        assert np.array_equal(loaded(x).each[name], score)
    found = loaded.explain(x)
    total = found.contributions.sum(1) + found.base
    np.testing.assert_allclose(total, loaded.score(x), rtol=1e-3, atol=1e-3)


def test_an_exported_file_scores_alike(whole: Any, tmp_path: Path) -> None:
    from vae_lightning.deployment.export import export
    from vae_lightning.deployment.scorer import Scorer

    x = rows(20, 3)
    export(whole.detector, tmp_path / "whole.onnx", "onnx")
    found = Scorer(tmp_path / "whole.onnx")(x)
    np.testing.assert_allclose(found["score"], whole.detector.score(x), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["Spread"], whole.detector(x).each["Spread"], rtol=1e-3, atol=1e-3)


def test_the_command_line_names_a_member_as_it_names_a_model(run: Any, tmp_path: Path) -> None:
    line = "fit --config {configs}/ensemble.yaml --data.init_args.samples 600 --trainer.max_epochs 1"
    quiet = " --trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.enable_model_summary false"
    assert run(line + " --model.init_args.members 3" + quiet) == 0
    checkpoint = tmp_path / "lightning_logs" / "ensemble" / "version_0" / "checkpoints" / "best.ckpt"
    assert Detector.load(checkpoint).model.members == 3
    assert run(f"test --ckpt_path {checkpoint}{quiet}") == 0


def test_the_estimator_takes_members() -> None:
    x = rows()
    found = VAEDetector(members=3, max_epochs=2, random_state=0).fit(x)
    assert found.detector_.model.members == 3
    assert found.predict(x).shape == (500,)


def test_what_cannot_be_an_ensemble_is_named() -> None:
    with pytest.raises(UserError, match="Conv2d cannot be stacked"):
        Ensemble([1, 8, 8], VAE([1, 8, 8], Conv([4])), 2)
    with pytest.raises(UserError, match="members = 0 "):
        Ensemble([10], MEMBERS["VAE"](), 0)
    with pytest.raises(UserError, match=r"the member takes \[10\]"):
        Ensemble([9], MEMBERS["VAE"](), 2)
