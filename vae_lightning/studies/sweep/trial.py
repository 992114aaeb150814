"""One trial: run in its folder, pruned by the median of the others, resumed, and recorded in the study."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from lightning.pytorch import Callback, Trainer

from ...errors import UserError
from ...files import write_whole
from ...training import runs
from .. import tasks
from .plan import Plan, label, short
from .storage import fail, tell

BEAT = 30  # seconds between signs of life


@dataclass
class Trial:
    """A trial that this process runs.

    Attributes:
        plan: The sweep's.
        study: Its ledger.
        trial: Optuna's.
        slot: Its place in the plan, and the number of its folder.
        values: Of the search space.
    """

    plan: Plan
    study: optuna.Study
    trial: optuna.Trial
    slot: int
    values: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Its name ends in the trial's values, which tell runs apart in TensorBoard."""
        name = f"trial_{self.slot:03d}"
        values = ",".join(f"{short(key, self.plan.search)}={label(value, 4)}" for key, value in self.values.items())
        new = f"{name}_{re.sub(r'[^-+.,=()A-Za-z0-9_]', '', values)[:80]}"
        there = (path for path in self.plan.folder.glob(f"{name}*") if path.name.partition("_")[2][:3] == name[6:])
        return next(there, self.plan.folder / new)

    def __str__(self) -> str:
        values = (f"{short(key, self.plan.search)}={label(value, 4)}" for key, value in self.values.items())
        return f"trial {self.slot:>3}  " + "  ".join(values)

    def do(self, cli: Any) -> str:
        try:
            with self.beating():
                return self.end(self.train(cli))
        except optuna.TrialPruned as pruned:
            self.tell(None, epochs=int(str(pruned)))
            return f"pruned after {pruned} epochs"

    def end(self, content: dict[str, Any]) -> str:
        """Record what its ``results.json`` holds; the objectives, in a line.

        Raises:
            UserError: When there is no such objective, or it is not finite.
        """
        objectives = {name: content["metrics"].get(name) for name in self.plan.objectives}
        for name, value in objectives.items():
            if value is None or not abs(value) < float("inf"):
                raise UserError(f"objectives: {name} is {value or 'not among the metrics of this trial'}")
        self.tell(list(objectives.values()), **content)
        return "  ".join(
            [*(f"{name} {value:.4f}" for name, value in objectives.items()), f"in {content['seconds']:.0f} s"]
        )

    def tell(self, values: list[float] | None, **attrs: Any) -> None:
        """Record its result."""
        tell(self.study, self.trial, values, **attrs)

    def interrupted(self) -> None:
        fail(self.study, self.trial, passed="interrupted")

    def failed(self, error: str, final: bool) -> None:
        fail(self.study, self.trial, error=error, **({"final": "the same would happen again"} if final else {}))

    def train(self, cli: Any) -> dict[str, Any]:
        """Run it, resume it, or take what it left when it was finished: what its ``results.json`` holds.

        Raises:
            UserError: When the folder holds another run.
        """
        self.mark()
        results = self.folder / runs.RESULTS
        for _ in range(2):
            if not results.is_file():
                callbacks = [Report(self.trial, next(iter(self.plan.objectives)))] if self.plan.pruning else []
                tasks.fit(cli, self.arguments, self.folder, callbacks)
            content: dict[str, Any] = json.loads(results.read_text())
            if all(name in content["metrics"] for name in self.plan.objectives):
                break
            # killed after its last epoch: resumed, it had nothing left to train, and so no metrics of training
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
            results.unlink()
        return content

    @property
    def arguments(self) -> list[str]:
        """Its command line."""
        return [*self.plan.arguments(self.values), "--runs", str(self.plan.runs), "--experiment", self.plan.study]

    def mark(self) -> None:
        """Write into the folder whose it is; refuse a folder that is another's."""
        mark = json.dumps({"definition": self.plan.definition(), "values": self.values}, indent=2)
        path = self.folder / "trial.json"
        if path.is_file() and json.loads(path.read_text()) != json.loads(mark):
            raise UserError(f"{self.folder} holds a trial with other values: move it away, or choose another --study")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, mark)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Give signs of life."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT):
                with contextlib.suppress(Exception):  # a storage out of reach for a while; or another took it over
                    self.trial.set_user_attr("beat", time.time())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class Report(Callback):
    """Tells the study each epoch's objective, and ends the trial when the median of the others was better."""

    def __init__(self, trial: optuna.Trial, objective: str) -> None:
        self.trial, self.objective = trial, objective

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        value = trainer.callback_metrics.get(self.objective)
        if trainer.sanity_checking or trainer.state.fn != "fit" or value is None or not value.isfinite():
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an epoch begun anew after a kill: its first report stands
            self.trial.report(float(value), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned(str(trainer.current_epoch + 1))
