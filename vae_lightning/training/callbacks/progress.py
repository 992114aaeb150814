"""Progress where no terminal shows a bar: plain lines, and few of them."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar, TQDMProgressBar

FIRST, GROWTH, LONGEST = 5.0, 1.3, 600.0  # seconds to the first line, from line to line, and at most


class Bar(TQDMProgressBar):
    """Lightning's bar without ``v_num``: the end of the folder's name says nothing, and its name follows at the end."""

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


class Summary(ModelSummary):
    """The model's parts and weights, a line each: what no table of Lightning's says in fewer than fifteen."""

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        parts = [(name, part, sum(p.numel() for p in part.parameters())) for name, part in pl_module.named_children()]
        shown = ", ".join(f"{name} {count:,}" for name, part, count in parts if count)
        total = sum(p.numel() for p in pl_module.parameters())
        print(f"model        {type(pl_module).__name__}, {total:,} weights: {shown}", file=sys.stderr)


class Lines(ProgressBar):
    """A line now and then on standard error: the longer a run takes, the rarer, but every ten minutes.

    A bar that is redrawn leaves hundreds of kilobytes in a log file; an hour of training leaves some forty lines here.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = self._due = 0.0

    def disable(self) -> None:
        """On all ranks but the first."""
        self._due = float("inf")

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._started = time.monotonic()
        if self._due != float("inf"):
            self._due = self._started + FIRST

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if time.monotonic() >= self._due:
            self._say(trainer, pl_module)

    def _say(self, trainer: Trainer, pl_module: Any) -> None:
        now = time.monotonic()
        self._due = now + min(LONGEST, max(FIRST, (GROWTH - 1) * (now - self._started)))
        epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        steps = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        shown = {k: v for k, v in self.get_metrics(trainer, pl_module).items() if k != "v_num"}
        figures = "".join(f"  {name} {value:.4g}" for name, value in shown.items() if not isinstance(value, str))
        place = f"epoch {trainer.current_epoch + 1}{epochs}  step {trainer.global_step}{steps}"
        print(f"{place}  {now - self._started:.0f} s{figures}", file=sys.stderr, flush=True)
