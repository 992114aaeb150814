"""TensorBoard as it should open: curves that matter first, the figures of a test as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

COLUMNS = "val/objective", "val/auroc", "val/f1"  # of the hparams tab; a test's are VERDICT's
TEST = "auroc", "average_precision", "f1", "false_alarm_rate"
VERDICT = "verdict/test_"  # single points that the hparams tab needs: by their name behind all curves
VIEW = "view/"  # pictures and histograms: behind the curves, too


class Board(TensorBoardLogger):
    """TensorBoardLogger with a layout: loss, reconstruction, KL and β in one row; AUROC, F1, threshold in the next.

    A test is no curve: its figures are a table in the text tab, and four of them columns in the hparams tab.
    ``epoch`` is left out: a run has one point of ``train/loss`` for each epoch.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        test = {name.removeprefix("test/"): float(v) for name, v in metrics.items() if name.startswith("test/")}
        shown = {name: v for name, v in metrics.items() if name != "epoch" and not name.startswith("test/")}
        shown |= {VERDICT + name: test[name] for name in TEST if name in test}
        # the columns of the hparams tab are announced by NaN, which is no point of a curve
        super().log_metrics({name: v for name, v in shown.items() if not math.isnan(float(v))}, step)
        if test:
            rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in test.items())
            self.experiment.add_text("test", f"| | test |\n|---|---|\n{rows}", step)

    @rank_zero_only
    def open(self, parameters: dict[str, Any], model: Any) -> None:
        """Write the hyperparameters, and the layout that suits the model; once, at the start of a run."""
        names = [*COLUMNS, *(VERDICT + name for name in TEST)]
        self.log_hyperparams(parameters, dict.fromkeys(names, math.nan))
        self.experiment.add_custom_scalars(layout(model))


def layout(model: Any) -> dict[str, dict[str, list[Any]]]:
    """The charts of the custom scalars tab, as SummaryWriter takes them: {row: {title: [kind, tags]}}."""
    term = getattr(getattr(model, "likelihood", None), "name", "(bce|mse|nll)")
    terms = {"loss": "(loss|objective)", "reconstruction": term, "KL": "kl", "beta": "beta"}
    training = {title: ["Multiline", [f"(train|val)/{tag}$"]] for title, tag in terms.items()}
    titles = {"AUROC": "auroc(/.*)?", "F1": "f1", "threshold": "threshold", "false alarms": "false_alarm_rate"}
    detection = {title: ["Multiline", [f"val/{tag}$"]] for title, tag in titles.items()}
    return {"Training": training, "Detection": detection}
