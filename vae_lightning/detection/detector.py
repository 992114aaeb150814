"""Raw samples in, decisions out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import levels
from ..batch import even_batches
from ..decoding import Decoder
from ..errors import UserError
from ..imagefiles import batches, paths_of
from ..schema import Schema
from ..scores.maps import Mapped
from . import card, conformal, storage
from .explainer import Explainer
from .explanation import Explanation
from .graph import Graph, Scores
from .modes import evaluating
from .rows import Draw
from .samples import Samples
from .thresholds import Conformal, Threshold

BATCH_SIZE = 1024  # samples at once; data modules evaluate with as many


class Detector:
    """Turns raw samples, such as rows of a table or image files, into scores, p-values and decisions.

    A sample raises an alarm if its score is above the threshold, which was fitted on normal samples that neither the
    weights nor the scores have seen. With ``Conformal``, the default, at most a share α of new normal samples raises
    an alarm, on average; its docstring says exactly what is guaranteed.

    Samples are a NumPy array, a tensor, a DataFrame (pandas, polars, or anything else with ``__arrow_c_stream__`` or
    ``__dataframe__``; columns are matched by name), or an iterable of batches of these. If trained on a table of mixed
    columns, it also takes categories, missing values and dicts of columns; see ``schema``. If trained on image files,
    it takes a path, a list of paths, or a folder, in the order of ``images_below``. Results are tensors for a tensor,
    else NumPy arrays.

    Args:
        model: A trained ``AnomalyModel``.
        batch_size: Samples that go through the network at once.
    """

    def __init__(self, model: Any, batch_size: int = BATCH_SIZE) -> None:
        self.model, self.batch_size = model, batch_size
        self.graph = Graph(model)
        self._schema: tuple[Any, Schema] | None = None

    # From a file and to it

    @classmethod
    def load(cls, path: str | Path, which: str = "best", trust: Sequence[type] = ()) -> Detector:
        """Load the detector of a checkpoint, or of a file that ``save`` wrote. No code in the file is executed.

        Args:
            path: A file; a run's folder; or ``best`` or ``last``, of the newest run in ``lightning_logs``.
            which: Of a run's folder, ``best`` or ``last``.
            trust: Your own classes that the model uses. Imported subclasses of this package's families need not be
                named.

        Raises:
            UserError: When the file is damaged, of another version, or names an unknown class.
        """
        file = storage.find(path, which)
        detector = cls(storage.restore(storage.read(file), trust, str(file)))
        try:
            detector.schema  # noqa: B018 (whether it is one)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        return detector

    def save(self, path: str | Path, rows: bool = True) -> None:
        """Write model, scores and thresholds to one file, for ``load``.

        Args:
            path: The file.
            rows: Whether to store the few raw calibration samples that ``explain`` compares with and that an exported
                file is checked with. Without them, explanations have neither p-values nor normal ranges.
        """
        self.check_calibrated()
        state = {key: value.detach().cpu() for key, value in self.model.state_dict().items()}
        about = self.model.about() | ({} if rows else {"canary": None})
        lightning = about["versions"]["lightning"]  # what its Trainer asks of a file, to test and to predict with it
        storage.write({"state_dict": state, storage.KEY: about, "pytorch-lightning_version": lightning}, Path(path))

    # What it knows

    @property
    def names(self) -> list[str]:
        """Names of the scores; the first one decides."""
        return list(self.model.scores)

    @property
    def mapped(self) -> list[str]:
        """Names of the scores that say how anomalous each pixel is, see ``maps``."""
        return [name for name, score in self.model.scores.items() if isinstance(score, Mapped)]

    @property
    def threshold(self) -> Threshold:
        """The threshold of the score that decides."""
        return self.model.thresholds[self.names[0]]

    @property
    def alpha(self) -> float | None:
        """The false-alarm rate that the threshold promises; None if it promises none."""
        return self.threshold.alpha if isinstance(self.threshold, Conformal) else None

    @property
    def columns(self) -> list[str] | None:
        """Names of the columns it was trained on, in order."""
        return self.model.trained_on.get("columns")

    @property
    def schema(self) -> Schema | None:
        """The columns of the table it was trained on; None if they were all numbers.

        Raises:
            UserError: When the file holds another one than its preprocessing was made for.
        """
        content = self.model.trained_on.get("schema")
        if content is None:
            return None
        if self._schema is None or self._schema[0] is not content:
            schema = Schema.from_json(content)
            if [column.codes for column in schema] != getattr(self.model.preprocessing, "codes", None):
                raise UserError("schema and preprocessing do not match: train it again")
            self._schema = content, schema
        return self._schema[1]

    @property
    def classes(self) -> list[str] | None:
        """The classes it takes for normal."""
        return self.model.trained_on.get("normal")

    @property
    def decoder(self) -> Decoder:
        """How it reads image files.

        Raises:
            UserError: When it was not trained on any.
        """
        about = self.model.trained_on
        if about.get("images") is None:
            raise UserError(
                f"the detector reads no image files: it was trained on {about.get('data', 'samples')}, which does not "
                "say how: give it samples, or train with the data module Images"
            )
        return Decoder.of(about["images"])

    @property
    def calibrated(self) -> bool:
        """Whether it has thresholds that belong to its weights."""
        return all(threshold.fitted for threshold in self.model.thresholds.values())

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    def to(self, device: str | torch.device) -> Detector:
        """Move it; samples follow it."""
        self.model.to(device)
        return self

    def __repr__(self) -> str:
        return card.text(card.facts(self))

    def _repr_html_(self) -> str:
        return card.html(card.facts(self))

    # From samples to decisions

    def __call__(self, x: Any) -> Scores:
        """Scores, p-values and decisions of samples (N, *raw_shape).

        Raises:
            UserError: When the detector is not calibrated, or samples have the wrong width, type or columns, or hold
                infinity, or NaN where it was not trained on a table that has gaps; for a file that is no image.
        """
        self.check_calibrated()
        found = list(self.through(self.graph, x))
        if not found:
            raise UserError("there are no samples: the iterable of batches is empty")
        whole = _joined(found)
        return whole if isinstance(x, Tensor) else _as_numpy(whole)

    @torch.no_grad()
    def stream(self, batches: Iterable[Any]) -> Iterator[Scores]:
        """Scores, p-values and decisions of many batches, one after the other, in constant memory.

        Categories that no training row had are counted over all of them, and warned of once, at the end.

        Args:
            batches: Each of them samples, as for a call; rows in messages are counted over all of them.

        Raises:
            UserError: As a call does.
        """
        self.check_calibrated()
        for found in self.through(self.graph, batches):
            yield _as_numpy(found)

    @torch.no_grad()
    def run(self, raw: Any) -> Scores:
        """The same of what ``Schema.encode`` or a ``Decoder`` gave: its numbers are not checked again.

        Args:
            raw: A tensor or array (N, *raw_shape).
        """
        self.check_calibrated()
        return _as_numpy(self.through_encoded(self.graph, raw))

    def score(self, x: Any, name: str | None = None) -> Any:
        """float32 (N,): the score of each sample, the one that decides or the one that is named."""
        if name is not None and name not in self.names:
            raise UserError(f"there is no score {name}: the detector has {', '.join(self.names)}")
        return self(x).each[name or self.names[0]]

    @torch.no_grad()
    def maps(self, x: Any, name: str | None = None) -> Any:
        """float32 (N, height, width): how anomalous each pixel is, by the first score that has a map, or another.

        Raises:
            UserError: When no score has a map, or the named one has none.
        """
        self.check_calibrated()
        if not self.mapped or name not in (None, *self.mapped):
            known = ", ".join(self.mapped) or "none"
            raise UserError(f"there is no map of {name or 'any score'}: the detector has maps of {known}")
        found = [part[name or self.mapped[0]] for part in self.through(self.graph.maps, x)]
        if not found:
            raise UserError("there are no samples: the iterable of batches is empty")
        maps = torch.cat(found)
        return maps if isinstance(x, Tensor) else maps.numpy()

    def p_values(self, x: Any) -> Any:
        """float32 (N,): the share of normal samples that score at least as high, see ``Scores``."""
        return self(x).p_value

    def predict(self, x: Any, alpha: float | None = None, fdr: float | None = None) -> Any:
        """Bool (N,): which samples are anomalies.

        Args:
            x: Samples.
            alpha: Alarm if p ≤ alpha, instead of the detector's threshold.
            fdr: Bound the share of false alarms among the alarms in x instead, with the procedure of Benjamini and
                Hochberg at this level, see ``benjamini_hochberg``.

        Raises:
            UserError: When both are given, or a level is outside (0, 1).
        """
        levels.check(alpha, fdr)
        answer = self(x)
        anomaly = self.decide(answer, alpha, fdr)
        return torch.from_numpy(anomaly) if isinstance(answer.score, Tensor) else anomaly

    def decide(self, answer: Scores, alpha: float | None = None, fdr: float | None = None) -> np.ndarray:
        """Bool (N,): the decisions on samples that are already scored; arguments as for ``predict``."""
        p = np.asarray(answer.p_value)
        if alpha is not None:
            anomaly = levels.by_alpha(p, alpha)
        elif fdr is not None:
            anomaly = conformal.benjamini_hochberg(torch.from_numpy(p), fdr).numpy()
        else:
            return np.asarray(answer.anomaly)
        if not anomaly.any() and (reason := self.unreachable(len(p), alpha, fdr)):
            warnings.warn(reason, stacklevel=3)
        return anomaly

    def explain(self, x: Any, name: str | None = None) -> Explanation:
        """Why samples (N, *input_shape) score as they do: what each column or pixel adds, what was expected of it.

        Args:
            x: Samples.
            name: Of the score; None for the one that decides.

        Raises:
            UserError: As for scoring, and when the score cannot be explained.
        """
        return Explainer(self, name)(x)

    def unreachable(self, m: int, alpha: float | None = None, fdr: float | None = None) -> str | None:
        """Why not even a lone anomaly among m samples could be found at a level, where that is so."""
        if alpha is not None:
            what, needed = f"alpha = {alpha}", conformal.needed(alpha)
        elif fdr is not None:
            what, needed = f"fdr = {fdr} with {m} samples", conformal.needed_for_fdr(m, fdr)
        else:
            what, needed = "", 0
        n = self.threshold.samples
        return f"{what}: a single alarm needs {needed} calibration samples, there are {n}" if n < needed else None

    def check_calibrated(self) -> None:
        """Raise a UserError if there are no thresholds that belong to the weights: it refuses to score."""
        if not self.calibrated:
            raise UserError(f"the detector is not calibrated: {storage.RECALIBRATE}")

    # What it is made with

    @torch.inference_mode(False)
    @torch.no_grad()
    def fit(self, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        """Fit the scores.

        Args:
            train: Batches of raw training samples (B, *raw_shape), to be gone through as often as needed.
            val: Of raw normal validation samples.
        """
        self._check_prepared()
        with evaluating(self.model):
            for score in self.model.scores.values():
                score.fit(self.model, _Prepared(self.model, train), _Prepared(self.model, val))

    @torch.inference_mode(False)
    @torch.no_grad()
    def calibrate(self, normal: Any) -> None:
        """Fit the thresholds. Some samples are kept as they are, see ``Draw``.

        Args:
            normal: Normal samples that neither weights nor scores have seen, as for scoring.

        Raises:
            UserError: When there are none, or a score of theirs is not finite.
        """
        for name, score in self.model.scores.items():
            if not score.fitted:
                raise UserError(f"{name} has not been fitted yet: fit the scores first, on training samples")
        draw = Draw()
        found = list(self.through(lambda raw: self.graph.scores(draw.see(raw)), normal))
        self.model.canary = draw.rows
        for name, threshold in self.model.thresholds.items():
            try:
                threshold.fit(_joined(found)[name] if found else torch.empty(0))
            except UserError as error:
                raise UserError(f"{name}: {error}") from error

    @torch.no_grad()  # and no inference mode: what it gives can go on into any computation
    def through(self, function: Callable[[Tensor], Any], x: Any) -> Iterator[Any]:
        """What ``function`` gives for all of x, or for each of an iterable of batches, on the CPU."""
        self._check_prepared()
        if (paths := paths_of(x)) is not None:
            x = (images for _, images in batches(paths, self.decoder, self.batch_size))
        prepares = self.model.preprocessing
        samples = Samples(x, prepares, prepares.raw_shape(self.model.input_shape), self.columns, self.schema)
        with evaluating(self.model):
            for raw in samples:
                yield self._of(function, raw)

    def through_encoded(self, function: Callable[[Tensor], Any], raw: Any) -> Any:
        """The same of all of what ``Schema.encode`` or a ``Decoder`` gave: its numbers are not checked again."""
        raw = torch.as_tensor(raw)
        self.model.preprocessing.check(raw, self.model.preprocessing.raw_shape(self.model.input_shape))
        with evaluating(self.model):
            return self._of(function, raw)

    def _of(self, function: Callable[[Tensor], Any], raw: Tensor) -> Any:
        parts = raw.split(even_batches(len(raw), self.batch_size)) if len(raw) else [raw]
        return _joined([_on_cpu(function(part.to(self.device))) for part in parts])

    def _check_prepared(self) -> None:
        if self.model.preprocessing is None:
            raise UserError("the model has no preprocessing yet: give it one, or train it")


class _Prepared:
    """Raw batches as the network sees them, as often as they are asked for."""

    def __init__(self, model: Any, batches: Iterable[Tensor]) -> None:
        self.model, self.batches = model, batches

    def __iter__(self) -> Iterator[Tensor]:
        return (self.model.preprocessing(raw.to(self.model.device)) for raw in self.batches)


def _on_cpu(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: tensor.cpu() for name, tensor in found.items()}
    return Scores(found.score.cpu(), found.p_value.cpu(), found.anomaly.cpu(), _on_cpu(found.each))


def _joined(parts: list[Any]) -> Any:
    """Scores, or tensors by name, of consecutive samples as one."""
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    score, p_value, anomaly = (torch.cat(column) for column in zip(*(part[:3] for part in parts), strict=True))
    return Scores(score, p_value, anomaly, _joined([part.each for part in parts]))


def _as_numpy(found: Scores) -> Scores:
    each = {name: column.numpy() for name, column in found.each.items()}
    return Scores(found.score.numpy(), found.p_value.numpy(), found.anomaly.numpy(), each)
