"""Raw samples in, decisions out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import levels
from ..errors import UserError
from . import conformal, storage
from .explainer import Explainer
from .explanation import Explanation
from .graph import Scores
from .pipeline import Pipeline, joined


class Detector(Pipeline):
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

    # From samples to decisions

    def __call__(self, x: Any) -> Scores:
        """Scores, p-values and decisions of samples (N, *raw_shape).

        Raises:
            UserError: When the detector is not calibrated, or samples have the wrong width, type or columns, or hold
                infinity, or NaN where it was not trained on a table that has gaps; for a file that is no image.
        """
        self.check_calibrated()
        found = list(self.through(self.graph.computed, x))
        if not found:
            raise UserError("there are no samples: the iterable of batches is empty")
        return self._decided(joined(found), numpy=not isinstance(x, Tensor))

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
        for found in self.through(self.graph.computed, batches):
            yield self._decided(found)

    @torch.no_grad()
    def run(self, raw: Any) -> Scores:
        """The same of what ``Schema.encode`` or a ``Decoder`` gave: its numbers are not checked again.

        Args:
            raw: A tensor or array (N, *raw_shape).
        """
        self.check_calibrated()
        return self._decided(self.through_encoded(self.graph.computed, raw))

    @torch.no_grad()
    def _decided(self, computed: dict[str, Tensor], numpy: bool = True) -> Scores:
        """Once for many batches: of a small network's batch, decisions would take as long as the network."""
        found = self.graph.decide({name: score.to(self.device) for name, score in computed.items()})
        of: Any = (lambda tensor: tensor.cpu().numpy()) if numpy else Tensor.cpu
        each = {name: of(score) for name, score in found.each.items()}
        return Scores(of(found.score), of(found.p_value), of(found.anomaly), each)

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
