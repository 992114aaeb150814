"""An exported file decides as its detector does, needs nothing but itself, and is refused if it is not what it was."""

import io
import json
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import environment
from surface import samples
from torch import Tensor

from vae_lightning.commands import main
from vae_lightning.deployment import seal, verification
from vae_lightning.deployment.export import export, manifest_of
from vae_lightning.deployment.manifest import Manifest
from vae_lightning.deployment.scorer import Scorer
from vae_lightning.deployment.tolerance import TOLERANCE, difference
from vae_lightning.detection import Columns, Conformal, Detector, Images, Standardize
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Autoencoder, Mixed
from vae_lightning.models.networks import MLP, Conv
from vae_lightning.schema import Column, Schema
from vae_lightning.scores import NAP, LikelihoodRegret, NegativeELBO, ReconstructionError, Score

FORMS: list[seal.Format] = ["onnx", "pt2"]
COLUMNS = [*(Column(f"c{i}") for i in range(10)), Column("kind", "categorical", ("a", "b"), ("rare",))]
NAMES = [column.name for column in COLUMNS]


def raw(n: int, seed: int, shift: float = 0.0) -> Tensor:
    """Ten numbers on scales of their own, with an offset that single precision would swallow and gaps, and a code."""
    generator = torch.Generator().manual_seed(seed)
    x = samples(n, seed, shift).double() * torch.logspace(-3, 3, 10, dtype=torch.float64) + 1e6
    x[torch.rand(n, generator=generator) < 0.1, 9] = torch.nan
    return torch.cat([x, torch.randint(2, (n, 1), generator=generator)], 1)


def table(x: Tensor) -> dict[str, Any]:
    """The same as columns, the last one first, with words."""
    words = np.array(["a", "b", "rare", "never seen"])[x[:, -1].long().numpy()]
    return {"kind": words, **{name: x[:, i].numpy() for i, name in enumerate(NAMES[:-1])}}


def table_detector(scores: list[Score] | None = None) -> Detector:
    torch.manual_seed(0)
    prepares = Columns([column.codes for column in COLUMNS], gaps=[9])
    prepares.fit([raw(200, 1)])
    given = scores or [NAP(), NegativeELBO(samples=1), ReconstructionError()]
    model = VAE([prepares.width], MLP([16]), 3, Mixed(), scores=given, preprocessing=prepares).eval()
    model.likelihood.adopt(prepares)
    schema = Schema(tuple(COLUMNS), "float64")
    model.trained_on = {"columns": NAMES, "schema": schema.to_json(), "data": "Surface", "samples": 200}
    model.detector.fit([raw(200, 1)], [raw(100, 2)])
    model.detector.calibrate(raw(150, 3))
    return model.detector


@pytest.fixture(scope="module")
def detector() -> Detector:
    return table_detector()


@pytest.fixture(scope="module")
def files(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The detector in each format."""
    folder = tmp_path_factory.mktemp("exported")
    for form in FORMS:
        export(detector, folder / f"detector.{form}", form)
    detector.save(folder / "detector.ckpt")
    return {form: folder / f"detector.{form}" for form in (*FORMS, "ckpt")}


@pytest.fixture(scope="module")
def scorers(files: dict[str, Path]) -> dict[str, Scorer]:
    return {form: Scorer(path) for form, path in files.items()}


@pytest.mark.parametrize("form", [*FORMS, "ckpt"])
def test_a_file_scores_as_its_detector(form: str, scorers: dict[str, Scorer], detector: Detector) -> None:
    scorer = scorers[form]
    scorer.check()
    assert scorer.manifest.outputs == ("score", "p_value", "anomaly", "NegativeELBO", "ReconstructionError")
    for size in (0, 1, 2, 7, 1500):
        x = torch.cat([raw(size // 2, size), raw(size - size // 2, size + 1, shift=3.0)])
        expected, found = detector(x), scorer(x.numpy())
        assert all(np.array_equal(found[name], column) for name, column in scorer(table(x)).items())
        assert found["score"].dtype == found["p_value"].dtype == np.float32
        assert found["anomaly"].dtype == np.bool_
        for name, key in {"NAP": "score", "NegativeELBO": "NegativeELBO"}.items():
            calibration = detector.model.thresholds[name].calibration
            spread = float(calibration.quantile(0.75) - calibration.quantile(0.25))
            assert difference(found[key], expected.each[name].numpy(), spread).max(initial=0) <= TOLERANCE
        assert np.array_equal(found["anomaly"], expected.anomaly.numpy())
        assert np.array_equal(found["p_value"], expected.p_value.numpy())
    assert 0.2 < found["anomaly"].mean() < 1  # both decisions were asked for


def test_batches_do_not_matter(files: dict[str, Path], scorers: dict[str, Scorer]) -> None:
    x = raw(50, 9).numpy()
    whole, small = scorers["onnx"](x), Scorer(files["onnx"], threads=1, batch_size=7)(x)
    assert difference(small["score"], whole["score"], 0).max() <= TOLERANCE


def test_what_a_file_says_of_itself(files: dict[str, Path], scorers: dict[str, Scorer], detector: Detector) -> None:
    for form in FORMS:
        text = files[form].with_name(f"{files[form].name}.json").read_text()
        card = json.loads(text, parse_constant=pytest.fail)  # neither NaN nor infinity: not every reader takes them
        manifest = scorers[form].manifest
        assert card["schema"]["columns"][3]["name"] == "c3"
        assert (manifest.alpha, manifest.calibration) == (0.05, 150)
        assert manifest.threshold == detector.threshold.value.item()
        assert card["weights"] == manifest.weights == manifest_of(detector).weights
        assert card["checked"]["samples"] > 1000
        assert card["checked"]["difference"] <= TOLERANCE
        assert re.findall(rb"/[\w./-]+\.py\b", files[form].read_bytes()) == []  # no word on whose machine it was
        assert [path.name for path in files[form].parent.iterdir() if path.name.startswith(".")] == []


def test_scoring_with_onnx_needs_no_torch(files: dict[str, Path], detector: Detector) -> None:
    np.savez(files["onnx"].with_name("x.npz"), **table(raw(20, 5)))
    code = """
import json, sys
import numpy as np
from vae_lightning.deployment.scorer import Scorer
found = Scorer("detector.onnx")(dict(np.load("x.npz")))
heavy = [name for name in ("torch", "lightning", "sklearn", "scipy", "onnx") if name in sys.modules]
print(json.dumps([heavy, found["score"].tolist()]))
"""
    folder = files["onnx"].parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy, score = json.loads(done.stdout)
    assert heavy == []
    np.testing.assert_allclose(score, detector(raw(20, 5)).score.numpy(), rtol=TOLERANCE)


def test_images_are_exported_as_they_lie_in_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Autoencoder([1, 14, 14], Conv([4, 8]), 3, preprocessing=Images()).eval()
    pixels = torch.randint(0, 256, (300, 1, 14, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model.detector.calibrate(pixels[:200])
    card = export(model.detector, tmp_path / "images.pt2", "pt2")
    assert (card["dtype"], card["shape"], card["schema"]) == ("uint8", [1, 14, 14], None)
    scorer, expected = Scorer(tmp_path / "images.pt2"), model.detector(pixels[200:])
    np.testing.assert_allclose(scorer(pixels[200:].numpy())["score"], expected.score.numpy(), rtol=TOLERANCE)
    with pytest.raises(UserError, match=r"^the detector takes uint8, not float32 of shape \[1, 1, 14, 14\]$"):
        scorer(np.zeros((1, 1, 14, 14), np.float32))
    with pytest.raises(UserError, match=r"^the detector takes shape \[samples, 1, 14, 14\], not \[1, 14, 14\]$"):
        scorer(np.zeros((1, 14, 14), np.uint8))


# A file that is not the detector


class OtherInAGraph(Score):
    """Computes something else once it is exported."""

    def __init__(self, factor: float = 1.0001) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, model: Any, x: Tensor) -> Tensor:
        score = (x - model.reconstruct(x)).square().flatten(1).sum(1)
        return score * self.factor if torch.compiler.is_compiling() else score


def test_a_file_that_scores_otherwise_is_not_left(tmp_path: Path) -> None:
    detector = table_detector([OtherInAGraph()])
    with pytest.raises(UserError, match=r"^the pt2 file is not the detector, and is not kept: OtherInAGraph of a "):
        export(detector, tmp_path / "detector.pt2", "pt2")
    assert list(tmp_path.iterdir()) == []


class Answers:
    """The detector's own, but for one of them."""

    def __init__(self, detector: Detector, **changed: Callable[[np.ndarray], np.ndarray]) -> None:
        self.detector, self.changed = detector, changed

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown categories
            found = self.detector(torch.from_numpy(x))
        others = {name: found.each[name] for name in self.detector.names[1:]}
        given = {"score": found.score, "p_value": found.p_value, "anomaly": found.anomaly, **others}
        arrays = {name: value.numpy() for name, value in given.items()}
        return arrays | {name: change(arrays[name]) for name, change in self.changed.items()}


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("score", lambda s: s * np.float32(1.001), "NAP of a sample in a batch of 1 is "),
        ("score", lambda s: np.where(s == s.max(), np.nan, s).astype(np.float32), "NAP of a sample"),
        ("NegativeELBO", lambda s: s + np.float32(1), "NegativeELBO of a sample"),
        ("p_value", lambda p: np.nextafter(p, np.float32(0)), "p-values in the file are not those of its scores"),
        ("anomaly", lambda a: a ^ (np.arange(len(a)) == 6), "decisions in the file are not those of its scores"),
        ("score", lambda s: s * (1 + 5e-6 * np.random.default_rng().random(len(s), np.float32)), "the second time"),
    ],
)
def test_any_other_answer_is_noticed(name: str, change: Any, complaint: str, detector: Detector) -> None:
    manifest, canary = manifest_of(detector), detector.model.canary.double().numpy()
    fine = verification.verify(detector, manifest, Answers(detector), canary)
    assert (fine.samples, fine.difference) == (1010, 0)
    with pytest.raises(UserError, match=complaint):
        verification.verify(detector, manifest, Answers(detector, **{name: change}), canary)


def test_what_lies_on_the_threshold_may_be_decided_either_way(detector: Detector) -> None:
    """The threshold is itself a calibration score, so a canary may lie on it; rounding lifts it over."""
    threshold, manifest = detector.threshold, manifest_of(detector)
    calibration = raw(150, 3)
    (on,) = (detector(calibration).score == threshold.value).nonzero()[0].tolist()

    def lifted(x: np.ndarray) -> dict[str, np.ndarray]:
        found = Answers(detector)(x)
        score = torch.from_numpy(np.nextafter(found["score"], np.float32(np.inf)))
        new = {"score": score, "p_value": threshold.p_values(score), "anomaly": threshold(score)}
        return found | {name: value.numpy() for name, value in new.items()}

    assert lifted(calibration.numpy())["anomaly"][on] != Answers(detector)(calibration.numpy())["anomaly"][on]
    assert verification.verify(detector, manifest, lifted, calibration[on : on + 1].numpy()).on_threshold > 0


def test_hard_cases_hold_what_is_easily_scored_otherwise(detector: Detector) -> None:
    canary = raw(4, 1).numpy()
    hard = verification.hard_cases(canary, manifest_of(detector))
    assert hard.dtype == np.float64
    assert np.isnan(hard).all(1).any()  # nothing there at all
    assert np.isnan(hard).any(0).all()  # and each value missing by itself
    assert {2, 3} <= set(hard[:, -1])  # a rare category and an unknown one
    assert np.nanmax(hard) > 1e8
    pixels = verification.hard_cases(np.full((2, 1, 4, 4), 9, np.uint8), Manifest(**PIXELS))
    assert {0, 255} <= {int(image.min()) for image in pixels if image.min() == image.max()}


PIXELS: dict[str, Any] = {
    "model": "",
    "dtype": "uint8",
    "shape": (1, 4, 4),
    "missing": False,
    "schema": None,
    "scores": ("NAP",),
    "rule": "",
    "alpha": None,
    "threshold": float("inf"),
    "calibration": 9,
    "spread": 1.0,
    "trained_on": {},
    "weights": "",
    "versions": {"vae_lightning": "9.1"},
}


def test_all_samples_are_compared_in_batches_of_every_size() -> None:
    x = np.arange(1200)[:, None]
    found = list(verification.batches(x))
    assert [len(batch) for batch in found] == [1, 2, 7, 1000, 1000]
    assert set(np.concatenate(found).flat) == set(range(1200))


# What cannot be exported


def test_refusals_of_export(tmp_path: Path, files: dict[str, Path], detector: Detector) -> None:
    regret = table_detector([LikelihoodRegret(steps=1)])
    with pytest.raises(UserError, match=r"^LikelihoodRegret cannot be exported: it optimises a posterior for each "):
        export(regret, tmp_path / "a.onnx")
    uncalibrated = Detector(detector.model.again().eval())
    with pytest.raises(UserError, match=r"^the detector is not calibrated"):
        export(uncalibrated, tmp_path / "a.onnx")
    old = Detector.load(files["ckpt"])
    old.model.canary = None
    with pytest.raises(UserError, match=r"^the detector holds no calibration samples to check the file with: call "):
        export(old, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_keeps_a_few_calibration_samples(detector: Detector, files: dict[str, Path]) -> None:
    for model in (detector.model, Detector.load(files["ckpt"]).model):
        np.testing.assert_array_equal(model.canary, raw(150, 3))
    big = Autoencoder([3, 256, 256], Conv([2]), 2, preprocessing=Images())
    big.thresholds["ReconstructionError"] = Conformal(0.5)
    big.detector.calibrate(list(torch.randint(0, 256, (30, 3, 256, 256), dtype=torch.uint8).split(2)))
    assert big.canary is not None
    assert len(big.canary) == 21  # of 192 KiB each


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of one score that has too few calibration samples to raise an alarm."""
    detector = table_detector([ReconstructionError()])
    detector.model.thresholds["ReconstructionError"] = Conformal(0.001)
    with pytest.warns(UserWarning, match="nothing raises an alarm"):
        detector.calibrate(raw(20, 3))
    path = tmp_path_factory.mktemp("small") / "d.ckpt"
    detector.save(path)
    return path


def test_a_file_may_keep_samples_secret_and_raise_no_alarm(small: Path, tmp_path: Path) -> None:
    card = export(Detector.load(small), tmp_path / "d.pt2", "pt2", canary=0)
    scorer = Scorer(tmp_path / "d.pt2")
    assert scorer.manifest.canary is None
    scorer.check()
    assert not (tmp_path / "d.pt2").read_bytes().count(raw(20, 3)[:1].numpy().tobytes())
    assert (card["threshold"], scorer.manifest.threshold) == (None, float("inf"))
    assert not scorer(raw(5, 4, shift=3.0).numpy())["anomaly"].any()


# What is no file of export


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_byte_is_noticed(form: str, files: dict[str, Path], tmp_path: Path) -> None:
    content, path = files[form].read_bytes(), tmp_path / f"a.{form}"
    for at in (0, 100, len(content) // 2, len(content) - 200, len(content) - 10):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(UserError, match=rf"^{path}: damaged: its content has changed since it was exported"):
            Scorer(path)
    for kept in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(UserError, match=rf"^{path}: truncated, or not a detector that `export` wrote"):
            Scorer(path)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2", "a.ckpt", "a"])
def test_a_pickle_in_disguise_is_not_run(name: str, tmp_path: Path) -> None:
    for write in (
        lambda file: pickle.dump(Payload(tmp_path / "ran"), file, 2),
        lambda f: torch.save(Payload(tmp_path / "ran"), f),
    ):
        with (tmp_path / name).open("wb") as file:
            write(file)
        with pytest.raises(UserError, match=rf"^{tmp_path / name}: (damaged, )?truncated"):
            Scorer(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def rewritten(content: bytes, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> bytes:
    """A pt2 archive with other members, under a seal that fits."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
        for name, data in (extra or {}).items():
            new.writestr(f"{root}/{name}", data)
    return seal.seal(out.getvalue(), "pt2")


def test_an_archive_with_code_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    content, path, ran = files["pt2"].read_bytes(), tmp_path / "a.pt2", tmp_path / "ran"
    evil = pickle.dumps(Payload(ran), 2)

    def replace(member: str, old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
        return lambda name, data: data.replace(old, new, 1) if name == member else data

    def same(name: str, data: bytes) -> bytes:
        return data

    graph, tensors = "models/model.json", "data/weights/model_weights_config.json"
    call = f"__import__('pathlib').Path('{ran}').touch()".encode()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        program = archive.read(next(name for name in archive.namelist() if name.endswith(graph)))
    symbol = re.search(rb"Symbol\('s\d+', positive=True, integer=True\)", program)
    assert symbol
    attempts = {
        "a pickle": [rewritten(content, replace(tensors, b'"use_pickle": false', b'"use_pickle": true'))],
        "could run code": [
            rewritten(content, same, {"data/constants/opaque_obj_0": evil}),
            rewritten(content, same, {"data/aotinductor/model/a.so": evil}),
            rewritten(content, same, {"data/weights/model.pt": evil}),
            rewritten(content, replace(graph, symbol[0], call)),
            rewritten(content, replace(graph, b"torch.ops.aten.clone.default", b"torch.hub.load")),
            rewritten(content, replace(graph, b'"guards_code": []', b'"guards_code": ["1"]')),
        ],
        "damaged": [
            rewritten(content, lambda name, data: evil if name == "data/sample_inputs/model.pt" else data),
            rewritten(content, lambda name, data: b"{}" if name == graph else data),
        ],
    }
    path.write_bytes(rewritten(content, same))
    Scorer(path).check()  # rewritten as it is, it is read
    for complaint, archives in attempts.items():
        for i, changed in enumerate(archives):
            path.write_bytes(changed)
            with pytest.raises(UserError, match=complaint):
                Scorer(path)
            assert not ran.exists(), (complaint, i)


def test_an_onnx_file_of_others_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(files["onnx"])
    assert [entry.key for entry in model.metadata_props] == ["vae_lightning", "vae_lightning_sha256"]
    onnx.checker.check_model(model)
    del model.metadata_props[:]
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="not a detector that `export` wrote"):
        Scorer(path)
    path.write_bytes(seal.seal(model.SerializeToString(), "onnx"))
    with pytest.raises(UserError, match="not a detector that `export` wrote"):
        Scorer(path)
    path.write_bytes(seal.seal(b"no model at all", "onnx"))
    with pytest.raises(UserError, match=f"^{path}: damaged: "):
        Scorer(path)


def test_a_manifest_is_read_as_it_was_written_or_not_at_all() -> None:
    manifest = Manifest(**PIXELS)
    content = manifest.to_json()
    assert Manifest.from_json(json.dumps(content), "a") == manifest
    with pytest.raises(
        UserError, match=r"^a: exported by vae_lightning 9\.1 in format 2; this one reads formats up to 1"
    ):
        Manifest.from_json(json.dumps({**content, "format": 2}), "a")
    for text in ("", "{}", "[]", "3", "null", '"format"'):
        with pytest.raises(UserError, match=r"^a: not a detector that `export` wrote"):
            Manifest.from_json(text, "a")
    wrong: dict[str, list[Any]] = {key: [[1], {}, None, "x", 3] for key in content if key != "format"}
    wrong["shape"] = [[0], [-1, 2], ["a"], {}, None, "x", 3]
    wrong["schema"] = [[1], "x", {"columns": []}]
    wrong["canary"] = ["x", {}, {"x": "!", "score": []}, {"x": "AAAA", "score": [1.0]}]
    allowed = {
        "model": ["x"],
        "weights": ["x"],
        "rule": ["x"],
        "calibration": [3],
        "threshold": [None],
        "alpha": [None],
    }
    for key, values in wrong.items():
        for value in values:
            if value not in allowed.get(key, []) and not (key in ("trained_on", "versions") and value == {}):
                with pytest.raises(UserError, match=r"^a: damaged: its description is not what it should be"):
                    Manifest.from_json(json.dumps({**content, key: value}), "a")


# What is no sample


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_sample_is_refused_by_row_and_column(form: str, scorers: dict[str, Scorer]) -> None:
    scorer, x = scorers[form], raw(5, 1)
    columns = table(x)
    infinite = columns["c4"].copy()
    infinite[3] = np.inf
    with pytest.raises(UserError, match=r"^row 13, column 'c4' is inf: fill it in, or leave the row out$"):
        scorer({**columns, "c4": infinite}, first_row=10)
    with pytest.raises(UserError, match=r"^the table lacks columns c0, kind$"):
        scorer({name: columns[name] for name in NAMES[1:10]})
    with pytest.raises(UserError, match=r"^encoded rows have shape \[rows, 11\], not \[5, 10\]$"):
        scorer(x[:, :10].numpy())
    with pytest.raises(UserError, match=r"^row 0, column 'c1' is 'two', not a number$"):
        scorer({**columns, "c1": np.array(["two"] * 5)})
    x[2, -1] = 4
    with pytest.raises(UserError, match=r"^row 2, column 'kind' is 4: codes are 0 to 3, or NaN$"):
        scorer(x.numpy())


def test_a_word_that_was_never_seen_is_said_once(files: dict[str, Path]) -> None:
    scorer, x = Scorer(files["onnx"]), raw(5, 1)
    x[:3, -1] = 3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            scorer({"id": np.arange(5), **table(x)})
    assert [str(warning.message) for warning in caught] == [
        "column 'kind': 3 values were never seen in training",
        "columns that the detector does not know are left out: id",
    ]


def test_gaps_are_refused_where_the_detector_knows_of_none(tmp_path: Path) -> None:
    model = Autoencoder([10], MLP([4]), 2, preprocessing=Standardize()).eval()
    assert model.preprocessing is not None
    model.preprocessing.fit([samples(50, 1)])
    model.trained_on = {"columns": NAMES[:10]}
    model.detector.calibrate(samples(50, 2))
    card = export(model.detector, tmp_path / "d.pt2", "pt2")
    assert (card["dtype"], card["missing"]) == ("float64", False)
    x = samples(5, 3).numpy()
    scorer = Scorer(tmp_path / "d.pt2")
    expected = model.detector(x).score
    np.testing.assert_allclose(scorer(x)["score"], expected, rtol=TOLERANCE)
    np.testing.assert_allclose(scorer(dict(zip(NAMES, x.T, strict=False)))["score"], expected, rtol=TOLERANCE)
    x[3, 4] = np.nan
    with pytest.raises(UserError, match=r"^row 13, column c4 is nan: fill it in, or leave the row out$"):
        scorer(x, first_row=10)


# The command


def test_export_is_a_command(run: Callable[[str], int], small: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(f"export --ckpt_path {small} --output out/d.pt2") == 0
    assert "gives        score, p_value, anomaly\n" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["d.pt2", "d.pt2.json"]
    for line, complaint in {
        "--output d.onnx": "best: no run in lightning_logs has a best.ckpt: give a file, or train first",
        f"--ckpt_path {small} --output d.json": "--output d.json: give --format, onnx or pt2",
        f"--ckpt_path {small}": "export: the following arguments are required: --output",
        "--ckpt_path out/d.pt2 --output d.onnx": "out/d.pt2: damaged, truncated or no checkpoint",
    }.items():
        assert main(["export", *line.split()]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {complaint}"), error
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


class FarOut(Score):
    """Whose logarithms of a sigmoid are those of numbers that single precision has not."""

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return -torch.nn.functional.logsigmoid(-100 * x.abs().sum(1))


def test_a_logarithm_of_next_to_nothing_is_exported(tmp_path: Path) -> None:
    card = export(table_detector([FarOut()]), tmp_path / "detector.onnx")
    assert card["checked"]["samples"] > 1000
    scorer = Scorer(tmp_path / "detector.onnx")
    assert np.isfinite(scorer(raw(50, 1).numpy())["score"]).all()
