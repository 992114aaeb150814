"""From a raw sample to a decision: the only code between the two, in training, test, notebook and export alike."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..batch import even_batches
from ..errors import UserError
from ..frames import as_table
from ..recipe import build
from ..scores.sharing import sharing
from . import card, conformal, storage
from .thresholds import Conformal, Threshold

BATCH_SIZE = 1024  # samples at once; data modules evaluate with as many


class Scores(NamedTuple):
    """What a detector says of B samples.

    Attributes:
        score: float32 (B,), of the score that decides; higher is stranger.
        p_value: float32 (B,), in (0, 1]: the share of normal samples that are at least as strange, see
            :func:`~vae_lightning.detection.conformal.p_values`.
        anomaly: bool (B,), the decision.
        each: Every score by its name, float32 (B,).
    """

    score: Any
    p_value: Any
    anomaly: Any
    each: dict[str, Any]


class Graph(nn.Module):
    """A model's way from raw samples to :class:`Scores` as a module: what ``torch.export`` is given.

    Args:
        model: An :class:`~vae_lightning.models.AnomalyModel`: preprocessing, network, scores and thresholds.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def scores(self, raw: Tensor) -> dict[str, Tensor]:
        """Every score of raw samples (B, *input_shape), float32 (B,). One that is not a number counts as infinite."""
        with _single_precision(raw):
            x = self.model.preprocessing(raw)
            with sharing(self.model, x) as view:
                found = {name: score(view, x).float() for name, score in self.model.scores.items()}
        return {name: score.masked_fill(score.isnan(), math.inf) for name, score in found.items()}

    def forward(self, raw: Tensor) -> Scores:
        each = self.scores(raw)
        primary = next(iter(each))
        threshold = self.model.thresholds[primary]
        return Scores(each[primary], threshold.p_values(each[primary]), threshold(each[primary]), each)


@contextlib.contextmanager
def _single_precision(x: Tensor) -> Iterator[None]:
    """Scores are computed in float32 whatever the training's precision: the same in every command."""
    if not torch.is_autocast_enabled(x.device.type):
        yield
    else:
        with torch.autocast(x.device.type, enabled=False):
            yield


class Detector:
    """Takes raw samples, as they stand in a table or an image file, to scores, p-values and decisions.

    A sample is an alarm when it is stranger than the threshold, which was fitted on normal samples that neither the
    weights nor the scores have seen. With :class:`~vae_lightning.detection.thresholds.Conformal`, the default, at most
    a share α of new normal samples raise an alarm on average; its docstring says what is guaranteed, and of what.

    Samples are given as a numpy array, a tensor, a DataFrame (pandas, polars, or anything else with
    ``__arrow_c_stream__`` or ``__dataframe__``; columns are matched by name), or an iterable of batches of these.
    Answers are tensors for tensors, else numpy arrays.

    Args:
        model: A trained :class:`~vae_lightning.models.AnomalyModel`.
        batch_size: Samples that go through the network at once.
    """

    def __init__(self, model: Any, batch_size: int = BATCH_SIZE) -> None:
        self.model, self.batch_size = model, batch_size
        self.graph = Graph(model)

    # From a file and to it

    @classmethod
    def load(cls, path: str | Path, which: str = "best", trust: Sequence[type] = ()) -> Detector:
        """The detector in a checkpoint or a file of :meth:`save`. Nothing in the file is run.

        Args:
            path: A file; a run's folder; or ``best`` or ``last``, of the newest run in ``lightning_logs``.
            which: Of a run's folder, ``best`` or ``last``.
            trust: Classes of your own that the model is made of, where they are not subclasses of this package's
                families that have been imported already.

        Raises:
            UserError: When the file is damaged, of another version, or names a class that is not known.
        """
        file = storage.find(path, which)
        return cls(restore(storage.read(file), trust, str(file)))

    def save(self, path: str | Path) -> None:
        """Write model, scores and thresholds into one file, for :meth:`load`."""
        self._check_calibrated()
        state = {key: value.detach().cpu() for key, value in self.model.state_dict().items()}
        storage.write({"state_dict": state, storage.KEY: self.model.about()}, Path(path))

    # What it knows

    @property
    def names(self) -> list[str]:
        """Of its scores; the first one decides."""
        return list(self.model.scores)

    @property
    def threshold(self) -> Threshold:
        """Of the score that decides."""
        return self.model.thresholds[self.names[0]]

    @property
    def alpha(self) -> float | None:
        """The false-alarm rate that the threshold promises; None if it promises none."""
        return self.threshold.alpha if isinstance(self.threshold, Conformal) else None

    @property
    def columns(self) -> list[str] | None:
        """Names of the table's columns that it was trained on, in order."""
        return self.model.trained_on.get("columns")

    @property
    def classes(self) -> list[str] | None:
        """What is normal to it."""
        return self.model.trained_on.get("normal")

    @property
    def calibrated(self) -> bool:
        """Whether it has thresholds that belong to its weights."""
        return all(threshold.fitted for threshold in self.model.thresholds.values())

    def __repr__(self) -> str:
        return card.text(card.facts(self))

    def _repr_html_(self) -> str:
        return card.html(card.facts(self))

    def to(self, device: str | torch.device) -> Detector:
        """Move it; samples follow it."""
        self.model.to(device)
        return self

    # From samples to decisions

    def __call__(self, x: Any) -> Scores:
        """Scores, p-values and decisions of samples (N, *input_shape).

        Raises:
            UserError: When the detector is not calibrated, or samples have the wrong width, type or columns, or hold
                NaN or infinity.
        """
        self._check_calibrated()
        found, tensors = self._through(self.graph, x)
        answer = Scores(*(torch.cat(part) for part in list(zip(*found, strict=True))[:3]), _columns(f.each for f in found))
        return answer if tensors else _as_numpy(answer)

    def score(self, x: Any, name: str | None = None) -> Any:
        """float32 (N,): one score of each sample, the one that decides unless another is named."""
        return self(x).each[self._known(name)]

    def p_values(self, x: Any, name: str | None = None) -> Any:
        """float32 (N,): how rare a normal sample is that is at least as strange, see :class:`Scores`."""
        answer = self(x)
        if self._known(name) == self.names[0]:
            return answer.p_value
        scores = torch.as_tensor(answer.each[self._known(name)])
        p = self.model.thresholds[name].p_values(scores.to(self.device)).cpu()
        return p if isinstance(answer.score, Tensor) else p.numpy()

    def predict(self, x: Any, alpha: float | None = None, fdr: float | None = None) -> Any:
        """bool (N,): which samples are anomalies.

        Args:
            x: Samples.
            alpha: Alarm where p ≤ alpha, in place of the detector's threshold.
            fdr: Bound the share of false alarms among the alarms of this very batch instead: Benjamini and Hochberg's
                procedure at this level, see :func:`~vae_lightning.detection.conformal.benjamini_hochberg`.

        Raises:
            UserError: When both are given, or a level is outside (0, 1).
        """
        if alpha is not None and fdr is not None:
            raise UserError(f"alpha = {alpha} and fdr = {fdr} are both given: leave one of them out")
        for name, level in (("alpha", alpha), ("fdr", fdr)):
            if level is not None and not 0 < level < 1:
                raise UserError(f"{name} = {level} is not in (0, 1)")
        answer = self(x)
        if alpha is None and fdr is None:
            return answer.anomaly
        p, n = np.asarray(answer.p_value), self.threshold.samples
        if alpha is not None:
            needed, k = conformal.needed(alpha), conformal.alarm_rank(n, alpha)
            anomaly = np.round(p.astype(float) * (n + 1)) <= k
        else:
            needed, anomaly = conformal.needed_for_fdr(len(p), fdr), conformal.benjamini_hochberg(p, fdr)
        if n < needed:
            level = f"alpha = {alpha}" if fdr is None else f"fdr = {fdr} for a single anomaly among {len(p)} samples"
            warnings.warn(f"{level} cannot be reached with {n} calibration samples: {needed} are needed", stacklevel=2)
        return torch.as_tensor(anomaly) if isinstance(answer.anomaly, Tensor) else np.asarray(anomaly)

    # What it is made with

    @torch.inference_mode(False)
    @torch.no_grad()
    def fit(self, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        """Fit the scores on batches of raw normal samples (B, *input_shape), which may be gone through repeatedly."""
        with self._evaluating():
            for score in self.model.scores.values():
                score.fit(self.model, _Prepared(self.model, train), _Prepared(self.model, val))

    @torch.inference_mode(False)
    @torch.no_grad()
    def calibrate(self, normal: Any) -> None:
        """Fit the thresholds on normal samples that neither weights nor scores have seen.

        Args:
            normal: Samples, as for scoring.

        Raises:
            UserError: When a score of theirs is not finite.
        """
        found, _ = self._through(self.graph.scores, normal)
        for name, scores in _columns(found).items():
            try:
                self.model.thresholds[name].fit(scores.to(self.device))
            except UserError as error:
                raise UserError(f"{name}: {error}") from error

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def _through(self, function: Any, x: Any) -> tuple[list[Any], bool]:
        """What ``function`` gives for each batch, on the CPU; and whether samples were tensors."""
        found, tensors = [], isinstance(x, Tensor)
        with self._evaluating(), torch.inference_mode(not torch.is_grad_enabled() or torch.is_inference_mode_enabled()):
            for raw in self._batches(x):
                found.append(_on_cpu(function(raw.to(self.device))))
        return found, tensors

    def _batches(self, x: Any) -> Iterator[Tensor]:
        row = 0
        for samples in _pieces(x):
            raw = as_table(samples, self.columns)
            self.model.preprocessing.check(raw, self.model.input_shape)
            _check_finite(raw, row, self.columns)
            row += len(raw)
            yield from raw.split(even_batches(len(raw), self.batch_size)) if len(raw) else [raw]
