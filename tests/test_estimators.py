"""The estimators keep scikit-learn's contract, and decide as the detector within them does."""

import importlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from vae_lightning import VAE, AutoencoderDetector, Detector, UserError, VAEDetector
from vae_lightning.models.networks import MLP
from vae_lightning.scores import Mahalanobis, ReconstructionError

KINDS = VAEDetector, AutoencoderDetector
QUICK: dict[str, Any] = {"max_epochs": 3, "network": [16], "random_state": 0}
RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(3, 6))
NORMALS = RNG.normal(size=(500, 3)) @ MIX + 0.1 * RNG.normal(size=(500, 6))
STRANGE = 3 * RNG.normal(size=(100, 6))

SINGLE = "the net computes in float32, and a product of another shape sums in another order: 2e-7 apart, 1e-7 allowed"
EXPECTED = {"check_methods_subset_invariance": SINGLE, "check_methods_sample_order_invariance": SINGLE}


@pytest.mark.filterwarnings("ignore:.*nothing raises an alarm")  # the checks' tables have a few dozen rows
@parametrize_with_checks([kind(max_epochs=2) for kind in KINDS], expected_failed_checks=lambda _: EXPECTED)
def test_it_is_an_estimator_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_what_is_strange(kind: Any) -> None:
    found = kind(random_state=0, max_epochs=20).fit(NORMALS)
    assert (found.predict(STRANGE) == -1).mean() > 0.8
    assert (found.predict(NORMALS) == -1).mean() < 0.15
    assert found.n_iter_ == 20
    assert found.n_features_in_ == 6
    assert isinstance(found.detector_, Detector)


@pytest.mark.parametrize("kind", KINDS)
def test_it_decides_as_its_detector_does(kind: Any) -> None:
    found = kind(**QUICK).fit(NORMALS)
    answer = found.detector_(np.concatenate([NORMALS, STRANGE]))
    rows = np.concatenate([NORMALS, STRANGE])
    assert np.array_equal(found.predict(rows), np.where(answer.anomaly, -1, 1))
    assert np.array_equal(found.score_samples(rows), -answer.score.astype(np.float64))
    assert np.array_equal(found.decision_function(rows), found.score_samples(rows) - found.offset_)
    assert np.array_equal(found.decision_function(rows) >= 0, ~answer.anomaly)
    assert np.array_equal(found.p_values(rows), answer.p_value.astype(np.float64))
    assert {found.score_samples(rows).dtype, found.p_values(rows).dtype} == {np.dtype(np.float64)}
    assert found.predict(rows).dtype.kind == "i"


def test_a_score_at_the_threshold_is_no_alarm() -> None:
    found = VAEDetector(**QUICK).fit(NORMALS)
    rows = STRANGE[:50]
    for tied in found.detector_(rows).score:
        found.detector_.threshold.value.fill_(float(tied))
        found.offset_ = -float(tied)
        assert np.array_equal(found.decision_function(rows) >= 0, found.predict(rows) == 1)
    assert (found.decision_function(rows) == 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_scores(kind: Any) -> None:
    found = kind(**QUICK).fit(NORMALS)
    scores = found.score_samples(STRANGE)
    torch.rand(3)
    assert np.array_equal(found.fit(NORMALS).score_samples(STRANGE), scores)
    assert np.array_equal(clone(found).fit(NORMALS).score_samples(STRANGE), scores)
    assert not np.array_equal(kind(**{**QUICK, "random_state": 1}).fit(NORMALS).score_samples(STRANGE), scores)


def test_it_trains_the_model_that_it_is_told() -> None:
    scores = [Mahalanobis(), ReconstructionError()]
    found = VAEDetector(**{**QUICK, "network": MLP([7, 5])}, latent_dim=2, beta=0.5, scores=scores, alpha=0.1)
    model = found.fit(NORMALS).detector_.model
    assert type(model) is VAE
    assert [model.latent_dim, model.final_beta, list(model.scores)] == [2, 0.5, ["Mahalanobis", "ReconstructionError"]]
    assert model.encoder.hidden(torch.zeros(1, 6))[1].shape == (1, 5)
    assert found.detector_.alpha == 0.1


def test_it_pickles_without_its_training_data() -> None:
    found = VAEDetector(**QUICK).fit(np.repeat(NORMALS, 20, 0))
    stored = pickle.dumps(found)
    assert len(stored) < 100_000  # the rows alone are 480,000 bytes
    assert np.array_equal(pickle.loads(stored).predict(STRANGE), found.predict(STRANGE))


def test_tables_are_matched_by_name(tmp_path: Path) -> None:
    pd = importlib.import_module("pandas")
    names = [f"column {i}" for i in range(6)]
    table = pd.DataFrame(NORMALS, columns=names)
    found = VAEDetector(**QUICK).fit(table)
    assert list(found.feature_names_in_) == names
    with pytest.raises(ValueError, match="feature names"):
        found.predict(table[names[::-1]])
    found.detector_.save(tmp_path / "detector.pt")
    other = Detector.load(tmp_path / "detector.pt")
    assert np.array_equal(other.score(table[names[::-1]]), -found.score_samples(table))


def test_it_works_in_pipelines_and_searches() -> None:
    line = make_pipeline(RobustScaler(), VAEDetector(**QUICK)).fit(NORMALS)
    assert line.predict(STRANGE).shape == (100,)
    rows, labels = np.concatenate([NORMALS, STRANGE[:20]]), np.repeat([1, -1], [500, 20])
    search = GridSearchCV(AutoencoderDetector(**QUICK), {"latent_dim": [1, 3]}, scoring="roc_auc", cv=2)
    order = RNG.permutation(520)
    assert search.fit(rows[order], labels[order]).best_params_["latent_dim"] == 3


@pytest.mark.parametrize("rows", [4, 5, 10, 41])
def test_few_rows_train_and_it_says_once_that_alpha_is_out_of_reach(rows: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = VAEDetector(**QUICK).fit(NORMALS[:rows])
    (warning,) = caught
    assert warning.category is UserWarning
    assert "19 are needed; nothing raises an alarm" in str(warning.message)
    assert "\n" not in str(warning.message)
    assert warning.filename == __file__
    assert (found.predict(STRANGE) == 1).all()
    assert (found.decision_function(STRANGE) == np.inf).all()
    assert np.isfinite(found.score_samples(STRANGE)).all()


def test_few_rows_calibrate_as_many_as_alpha_needs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = VAEDetector(**QUICK).fit(NORMALS[:50])
    assert found.detector_.threshold.samples == 19
    assert VAEDetector(**QUICK).fit(NORMALS).detector_.threshold.samples == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha = 1.5"),
        ({"latent_dim": 0}, "latent_dim = 0"),
        ({"max_epochs": 0}, "max_epochs = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"val_fraction": 1.0}, "val_fraction = 1.0"),
        ({"device": "gpu"}, "device = gpu"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VAEDetector(**{**QUICK, **options}).fit(NORMALS)


def test_sparse_rows_and_missing_values_are_refused() -> None:
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        VAEDetector().fit(sparse.csr_matrix(NORMALS))
    rows = NORMALS.copy()
    rows[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        VAEDetector().fit(rows)
