"""The front door: whatever holds samples goes in; scores, p-values and decisions that agree come out."""

from __future__ import annotations

import copy
import importlib
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import script
from scipy.stats import false_discovery_control
from torch import Tensor, nn

from vae_lightning.batch import ANOMALY, NORMAL
from vae_lightning.data import Arrays, Digits
from vae_lightning.detection import Conformal, Detector, Images, Percentile, Standardize
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Autoencoder
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.scores import KNearestNeighbours, NegativeELBO, ReconstructionError, Score
from vae_lightning.training.callbacks.metrics import ranking
from vae_lightning.training.trainer import Trainer

NAMES = ["age", "<script>alert(1)</script>", "c", "d"]
ROWS = (np.random.default_rng(0).normal(size=(500, 4)) * [1, 10, 0.1, 1] + [0, 50, 0, 1]).round(3)
TEST = (np.random.default_rng(1).normal(size=(60, 4)) * [1, 10, 0.1, 1] + [0, 50, 0, 1]).round(3)
TEST[::6] += [4, 30, 0.5, 5]

Build = Callable[..., Trainer]


class Sickly(Score):
    """Cannot score a sample whose first feature is large."""

    def __init__(self, value: float = float("nan")) -> None:
        super().__init__()
        self.value = value

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return torch.where(x.flatten(1)[:, 0] > 10, self.value, x.flatten(1).square().sum(1))


def trained(data: Any, trainer: Build, **kwargs: Any) -> Detector:
    torch.manual_seed(0)
    kwargs = {"scores": [ReconstructionError(), NegativeELBO(2), KNearestNeighbours(2)], **kwargs}
    network = MLP([8], batch_norm=True, dropout=0.3)
    model = VAE(data.input_shape, network, 2, **kwargs)
    trainer(Trainer, max_epochs=2).fit(model, data)
    return model.detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a table's and of an images' detector."""
    folder = tmp_path_factory.mktemp("detectors")
    torch.set_num_threads(1)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)

    def build(kind: type[Trainer], **kwargs: Any) -> Trainer:
        return kind(accelerator="cpu", devices=1, default_root_dir=folder, **quiet, **kwargs)

    pandas = importlib.import_module("pandas")
    trained(Arrays(pandas.DataFrame(ROWS, columns=NAMES)), build).save(folder / "table.ckpt")
    trained(Digits(normal_classes=[0]), build).save(folder / "images.ckpt")
    return folder


@pytest.fixture
def table(folder: Path) -> Detector:
    return Detector.load(folder / "table.ckpt")


@pytest.fixture
def images(folder: Path) -> Detector:
    return Detector.load(folder / "images.ckpt")


def same(a: Any, b: Any) -> bool:
    """Two answers, to the bit."""
    pairs = [*zip(a[:3], b[:3], strict=True), *((a.each[name], b.each[name]) for name in a.each)]
    return list(a.each) == list(b.each) and all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


# What goes in


def test_arrays_tensors_and_rows_are_the_same_samples(table: Detector) -> None:
    expected = table(TEST)
    assert expected.score.shape == expected.p_value.shape == expected.anomaly.shape == (60,)
    assert (expected.score.dtype, expected.p_value.dtype, expected.anomaly.dtype) == (np.float32, np.float32, np.bool_)
    big, fortran, strided = TEST.astype(">f8"), np.asfortranarray(TEST), np.repeat(TEST, 2, 0)[::2]
    readonly = TEST.copy()
    readonly.flags.writeable = False
    before = TEST.copy()
    rows = [TEST.tolist(), [tuple(row) for row in TEST], list(TEST), [torch.from_numpy(row) for row in TEST]]
    for x in (big, fortran, strided, readonly, torch.from_numpy(TEST), *rows, TEST.astype(np.longdouble)):
        assert same(table(x), expected)
    whole = TEST.round()
    for dtype in (np.float32, np.float64, np.int64, np.int32, np.int16):
        assert same(table(whole.astype(dtype)), table(whole))
    assert same(table(torch.from_numpy(TEST).float()), table(TEST.astype(np.float32)))
    assert np.array_equal(TEST, before)


def test_answers_are_of_the_kind_of_the_samples(table: Detector) -> None:
    assert all(isinstance(part, np.ndarray) for part in (*table(TEST)[:3], *table(TEST).each.values()))
    answer = table(torch.from_numpy(TEST))
    assert all(isinstance(part, Tensor) for part in (*answer[:3], *answer.each.values()))
    assert isinstance(table.predict(torch.from_numpy(TEST), fdr=0.2), Tensor)
    assert isinstance(table.predict(TEST, alpha=0.2), np.ndarray)
    (answer.score.mul_(2) * torch.ones(1, requires_grad=True)).sum().backward()  # nobody's but the caller's


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow", "record batch", "stream"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_columns_go_by_their_names(library: str, dtype: Any, table: Detector) -> None:
    values, expected = TEST.astype(dtype), table(TEST.astype(dtype))

    def frame(columns: dict[str, np.ndarray]) -> Any:
        if library == "pandas":
            import pandas

            return pandas.DataFrame(columns, index=np.arange(len(values)) + 7)
        if library == "polars":
            import polars

            return polars.DataFrame(columns)
        import pyarrow

        made = pyarrow.table(columns)
        if library == "pyarrow":
            return made
        (batch,) = made.to_batches()
        return batch if library == "record batch" else pyarrow.RecordBatchReader.from_batches(made.schema, [batch])

    columns = {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(NAMES)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(table(frame(columns)), expected)
        assert same(table(frame(dict(reversed(columns.items())))), expected)
    with pytest.warns(UserWarning, match="columns that the detector does not know are left out: more"):
        assert same(table(frame({"more": columns["c"], **columns})), expected)
    with pytest.raises(UserError, match=r"^the table lacks column c$"):
        table(frame({name: column for name, column in columns.items() if name != "c"}))
    words = {**columns, "c": np.array(["x"] * len(values))}
    with pytest.raises(UserError, match=r"column 'c' holds .*not numbers"):
        table(frame(words))
    broken = columns["c"].copy()
    broken[5] = np.nan
    with pytest.raises(UserError, match=r"^row 5, column c is nan"):
        table(frame({**columns, "c": broken}))


def test_batches_are_the_whole(table: Detector) -> None:
    expected = table(TEST)

    def batches() -> Iterator[np.ndarray]:
        yield from np.split(TEST, [7, 7, 40])

    for x in (batches(), list(batches()), [torch.from_numpy(part) for part in batches()]):
        found = table(x)
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-5)
        assert np.array_equal(found.anomaly, expected.anomaly)
    small = Detector(table.model, batch_size=1)
    np.testing.assert_allclose(small.score(TEST), expected.score, rtol=1e-5)
    alone = [table(row[None]).score.item() for row in TEST]
    assert np.array_equal(small.score(TEST), np.float32(alone))
    broken = [TEST[:10], TEST[10:20].copy()]
    broken[1][3, 2] = np.inf
    with pytest.raises(UserError, match=r"^row 13, column c is inf"):
        table(broken)


def test_no_samples(table: Detector, images: Detector) -> None:
    for detector, x in ((table, np.empty((0, 4))), (images, np.empty((0, 1, 8, 8), np.uint8)), (table, [TEST[:0]])):
        answer = detector(x)
        assert answer.score.shape == answer.p_value.shape == answer.anomaly.shape == (0,)
        assert detector.predict(x, fdr=0.1).shape == detector.predict(x, alpha=0.3).shape == (0,)
    for x in ([], iter(())):
        with pytest.raises(UserError, match=r"there are no samples|not \[0\]"):
            table(x)


def test_images(images: Detector) -> None:
    x = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    assert same(images(x), images(x.numpy()))
    assert same(images(x.numpy()[:, :, ::-1]), images(x.flip(2)))
    for wrong in (x.float(), x.double() / 255, x.long()):
        with pytest.raises(UserError, match=r"Images takes uint8 from 0 to 255, not (float32|float64|int64)"):
            images(wrong)
    for shape in ((20, 8, 8), (20, 3, 8, 8), (20, 64), (20, 1, 8, 9)):
        with pytest.raises(UserError, match=r"of shape \[samples, 1, 8, 8\], not"):
            images(torch.zeros(shape, dtype=torch.uint8))


WRONG: dict[str, tuple[Any, str]] = {
    "too wide": (np.zeros((3, 5)), r"of shape \[samples, 4\], not \[3, 5\]"),
    "a row": (np.zeros(4), r"of shape \[samples, 4\], not \[4\]"),
    "a number": (np.float64(3), r"not \[1?\]"),
    "images": (np.zeros((3, 1, 8, 8), np.uint8), r"of shape \[samples, 4\]"),
    "objects": (np.array([[1, None, 2, 3]], object), "holds objects, not numbers"),
    "strings": (np.array([["1", "2", "3", "4"]]), "holds strings, not numbers"),
    "bytes": (np.array([[b"1"] * 4]), "holds bytes, not numbers"),
    "dates": (np.zeros((2, 4), "datetime64[s]"), "not numbers"),
    "complex": (np.zeros((2, 4), complex), "complex"),
    "complex tensor": (torch.zeros(2, 4, dtype=torch.complex64), "complex"),
    "ragged": ([[1.0, 2, 3, 4], [1.0]], "rows of unequal length"),
    "a word": ("rows", "reads no image files"),
    "nothing": (None, "NoneType holds no samples"),
    "one number": (5, "int holds no samples"),
    "a mapping": ({"age": [1]}, "the table lacks columns"),
    "columns of unequal length": ({name: [1.0] for name in NAMES} | {NAMES[0]: [1.0, 2.0]}, "of unequal length"),
    "a mapping of numbers": (dict.fromkeys(NAMES, 1.0), "is a float: give a list"),
    "nan": (np.array([[0, 1, 2, 3], [0, np.nan, 2, 3]]), r"^row 1, column <script>alert\(1\)</script> is nan"),
    "inf": (np.array([[0, 1, 2, -np.inf]]), "^row 0, column d is -inf"),
    "masked": (np.ma.masked_equal(TEST, TEST[4, 0]), "^row 4, column age is nan"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_sample_is_refused_in_one_line(what: str, table: Detector) -> None:
    x, said = WRONG[what]
    for ask in (table, table.score, table.p_values, table.predict, table.calibrate):
        with pytest.raises(UserError, match=said) as error:
            ask(x)
        assert "\n" not in str(error.value)


# What comes out


def test_p_values_and_decisions_from_first_principles(table: Detector) -> None:
    answer = table(TEST)
    for name, score in answer.each.items():
        calibration = table.model.thresholds[name].calibration.numpy()
        p = (1 + (calibration[None] >= score[:, None]).sum(1)) / (len(calibration) + 1)
        if name == table.names[0]:
            np.testing.assert_allclose(answer.p_value, p, rtol=1e-7)
            k = int(0.05 * (len(calibration) + 1))
            assert np.array_equal(answer.anomaly, score > np.sort(calibration)[-k])
            assert np.array_equal(answer.anomaly, p <= 0.05)
            for alpha in (0.03, 0.1, 0.5):
                assert np.array_equal(table.predict(TEST, alpha=alpha), p <= alpha)
            for fdr in (0.1, 0.3, 0.6):
                assert np.array_equal(table.predict(TEST, fdr=fdr), false_discovery_control(p) <= fdr)
            assert 0 < table.predict(TEST, fdr=0.3).sum() < 60
    assert np.array_equal(table.score(TEST), answer.score)
    assert np.array_equal(table.score(TEST, "NegativeELBO"), answer.each["NegativeELBO"])
    assert np.array_equal(table.p_values(TEST), answer.p_value)
    assert np.array_equal(table.predict(TEST), answer.anomaly)
    assert np.array_equal(table.predict(TEST, alpha=table.alpha), answer.anomaly)
    assert list(answer.each) == table.names == ["ReconstructionError", "NegativeELBO", "KNearestNeighbours"]


def test_scores_are_those_of_the_models_own_methods(table: Detector) -> None:
    model = table.model
    x = torch.from_numpy((TEST - (mean := model.preprocessing.mean.double().numpy())) / model.preprocessing.std.numpy())
    assert np.isfinite(mean).all()
    with torch.no_grad():
        expected = (x.float() - model.reconstruct(x.float())).square().mean(1)
    np.testing.assert_allclose(table.score(TEST), expected, rtol=1e-4)


def test_levels_that_cannot_be_reached_or_are_none(table: Detector) -> None:
    n = table.threshold.samples
    with pytest.warns(
        UserWarning, match=rf"alpha = 0.001: a single alarm needs 999 calibration samples, there are {n}"
    ):
        assert not table.predict(TEST, alpha=0.001).any()
    with pytest.warns(UserWarning, match=rf"fdr = 0.01 with 60 samples: .* needs 59\d\d .*there are {n}"):
        assert not table.predict(TEST, fdr=0.01).any()
    for key in ("alpha", "fdr"):
        for level in (0, 1, -0.1, 2.0, float("nan")):
            with pytest.raises(UserError, match=rf"{key} = {level} is not in \(0, 1\)"):
                table.predict(TEST, **{key: level})
    with pytest.raises(UserError, match="both given"):
        table.predict(TEST, alpha=0.1, fdr=0.1)
    with pytest.raises(UserError, match="there is no score Nap: the detector has ReconstructionError, NegativeELBO"):
        table.score(TEST, "Nap")


def test_without_calibration_it_refuses() -> None:
    model = VAE([4], MLP([3]), 2, preprocessing=Images())
    detector = Detector(model)
    for ask in (detector, detector.score, detector.p_values, detector.predict):
        with pytest.raises(UserError, match=r"not calibrated.*Detector\.calibrate"):
            ask(np.zeros((3, 4), np.uint8))
    assert not detector.calibrated
    assert "not calibrated" in repr(detector)
    with pytest.raises(UserError, match="Standardize is not fitted"):
        VAE([4], MLP([3]), 2, preprocessing=Standardize()).detector.calibrate(ROWS)


def test_training_mode_changes_no_score_and_is_left_as_it_was(table: Detector) -> None:
    expected = table(TEST)
    table.model.train()
    frozen = [module for module in table.model.modules() if isinstance(module, nn.BatchNorm1d)]
    for module in frozen:
        module.eval()
    modes = [module.training for module in table.model.modules()]
    state = copy.deepcopy(table.model.state_dict())
    assert same(table(TEST), expected)
    table.calibrate(ROWS)
    with pytest.raises(UserError):
        table(np.zeros((2, 9)))
    assert [module.training for module in table.model.modules()] == modes
    assert not all(modes)
    for key, value in table.model.state_dict().items():
        assert key.startswith("thresholds.") or torch.equal(value, state[key]), key
    table.model.eval()
    assert same(table(TEST)._replace(p_value=0, anomaly=0), expected._replace(p_value=0, anomaly=0))
    assert not table.model.training


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_threads(mode: str, table: Detector) -> None:
    parts = np.split(TEST, 6)
    expected = [table(part) for part in parts]
    getattr(table.model, mode)()
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=start.wait) as pool:
        for found, alone in zip(pool.map(table, parts * 20), expected * 20, strict=True):
            assert same(found, alone)
    assert all(module.training == (mode == "train") for module in table.model.modules())


def test_half_precision_around_it_changes_nothing(table: Detector, images: Detector) -> None:
    for detector, x in ((table, TEST), (images, np.arange(640, dtype=np.uint8).reshape(10, 1, 8, 8))):
        expected = detector(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert same(detector(x), expected)
        with torch.inference_mode():
            assert same(detector(x), expected)


# A score that fails


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_cannot_be_scored_is_an_alarm(value: float, trainer: Build) -> None:
    rows = np.clip(ROWS, None, ROWS.mean(0) + 3 * ROWS.std(0))
    detector = trained(Arrays(rows), trainer, scores=[Sickly(value), ReconstructionError()])
    x = TEST.copy()
    x[[3, 8], 0] = 1e4
    answer = detector(x)
    n = detector.threshold.samples
    assert np.isposinf(answer.score[[3, 8]]).all()
    assert answer.anomaly[[3, 8]].all()
    assert (answer.p_value[[3, 8]] == np.float32(1) / np.float32(n + 1)).all()
    assert answer.p_value.min() == answer.p_value[3]
    assert np.isfinite(np.delete(answer.score, [3, 8])).all()
    labels = torch.full((60,), NORMAL)
    labels[::6] = ANOMALY
    labels[3] = ANOMALY
    found = ranking(torch.from_numpy(answer.score), labels)
    finite = np.where(np.isinf(answer.score), 1e30, answer.score)  # any number above all others
    from sklearn.metrics import average_precision_score, roc_auc_score

    assert found["auroc"].item() == pytest.approx(roc_auc_score(labels, finite), abs=1e-6)
    assert found["average_precision"].item() == pytest.approx(average_precision_score(labels, finite), abs=1e-6)
    normal = rows.copy()
    normal[11, 0] = 1e4
    with pytest.raises(UserError, match=r"^Sickly: .*1 of 500 calibration scores.* index 11"):
        detector.calibrate(normal)


def test_infinite_scores_are_tied() -> None:
    scores, labels = torch.tensor([torch.inf, torch.inf, 1.0, -torch.inf]), torch.tensor([0, 1, 0, 0])
    for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
        assert ranking(scores[order], labels[order])["auroc"].item() == pytest.approx((1 + 1 + 0.5) / 3)


# Its life


def test_calibrate_anew(table: Detector) -> None:
    other = ROWS[:99] * 1.5
    scores = table.score(other)
    weights = {k: v.clone() for k, v in table.model.state_dict().items() if not k.startswith("thresholds.")}
    table.calibrate(other)
    assert table.threshold.samples == 99
    np.testing.assert_allclose(table.threshold.value.item(), np.sort(scores)[-5])
    assert all(torch.equal(table.model.state_dict()[key], value) for key, value in weights.items())
    with pytest.raises(UserError, match="0 calibration scores"):
        table.calibrate(np.empty((0, 4)))
    with pytest.warns(UserWarning, match="19 are needed"):
        table.calibrate(other[:5])
    assert table.calibrated
    assert not table.predict(TEST).any()


FRESH = """
import sys, numpy as np
from vae_lightning.detection import Detector
answer = Detector.load(sys.argv[1])(np.load(sys.argv[2]))
np.savez(sys.argv[3], *answer[:3], *answer.each.values())
"""


def test_save_and_load_in_a_fresh_process(table: Detector, tmp_path: Path) -> None:
    table.save(tmp_path / "new/file.ckpt")
    np.save(tmp_path / "rows.npy", TEST)
    (tmp_path / "fresh.py").write_text(FRESH)
    done = script(tmp_path, "fresh.py", "new/file.ckpt", "rows.npy", "answer.npz")
    assert done.returncode == 0, done.stderr
    expected = table(TEST)
    with np.load(tmp_path / "answer.npz") as answer:
        for found, wanted in zip(answer.values(), [*expected[:3], *expected.each.values()], strict=True):
            assert np.array_equal(found, wanted)
    loaded = Detector.load(tmp_path / "new/file.ckpt")
    assert (loaded.columns, loaded.classes, loaded.alpha, loaded.names) == (
        table.columns,
        table.classes,
        table.alpha,
        table.names,
    )


def test_its_card(table: Detector) -> None:
    card = repr(table)
    for fact in (
        "VAE",
        "samples of shape 4",
        "320 samples of Arrays",
        "normal",
        NAMES[1],
        "ReconstructionError",
        "α = 0.05",
    ):
        assert fact in card
    html = table._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_models_of_the_same_parts_share_nothing() -> None:
    parts: dict[str, Any] = {
        "network": MLP([3]),
        "likelihood": Gaussian("shared"),
        "scores": [KNearestNeighbours(1), ReconstructionError()],
        "threshold": Percentile(80),
        "preprocessing": Standardize(),
    }
    models = [VAE([4], latent_dim=2, **parts) for _ in range(2)]
    storages = [{id(tensor) for tensor in [*model.parameters(), *model.buffers()]} for model in models]
    assert not storages[0] & storages[1]
    assert not {id(module) for module in models[0].modules()} & {id(module) for module in models[1].modules()}
    batches = [torch.from_numpy(ROWS[:100])]
    models[0].preprocessing.fit(batches)
    models[0].detector.fit(batches, batches)
    models[0].detector.calibrate(ROWS[100:200])
    assert models[0].detector.calibrated
    assert not models[1].detector.calibrated
    assert not models[1].preprocessing.fitted
    assert parts["threshold"].value.isnan()
    assert not parts["scores"][0].fitted
    assert "_logvar" not in dict(parts["likelihood"].named_parameters())


def test_scores_of_one_class_are_told_apart() -> None:
    scores = [NegativeELBO(), NegativeELBO(8), ReconstructionError(), NegativeELBO(8, seed=1)]
    names = ["NegativeELBO", "NegativeELBO_2", "ReconstructionError", "NegativeELBO_4"]
    model = VAE([4], MLP([3]), 2, scores=scores)
    assert model.detector.names == list(model.thresholds) == names


def test_scores_that_do_not_suit_are_refused_at_once() -> None:
    with pytest.raises(UserError, match="scores is empty: name at least one score"):
        Autoencoder([4], MLP([3]), 2, scores=[])
    with pytest.raises(UserError, match="NegativeELBO needs a model with `posterior`, which Autoencoder has not"):
        Autoencoder([4], MLP([3]), 2, scores=[ReconstructionError(), NegativeELBO()])


def test_a_threshold_of_each_score_travels_whatever_its_length() -> None:
    model, other = (
        VAE([4], MLP([3]), 2, scores=[ReconstructionError()], threshold=Conformal(0.2), preprocessing=Standardize())
        for _ in range(2)
    )
    model.preprocessing.fit([torch.from_numpy(ROWS)])
    model.detector.calibrate(ROWS[:37])
    other.load_state_dict(model.state_dict())
    assert same(model.detector(TEST), other.detector(TEST))
    assert other.detector.threshold.samples == 37
