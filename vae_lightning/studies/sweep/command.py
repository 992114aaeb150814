"""``python -m vae_lightning sweep``: many runs over a grid or a search space, compared on validation data."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from lightning.pytorch import Callback, Trainer

from ...errors import UserError
from ...files import write_whole
from ...training import runs
from .. import parser, tasks
from . import report
from .plan import Plan, label, read, short, suggest
from .trials import Claim, Trials, check_storage, connect

BEAT = 30  # seconds between signs of life

DESCRIPTION = """\
Train many runs that differ in some configuration keys, and compare them on validation data.

  python -m vae_lightning sweep --config configs/sweeps/fashion_mnist.yaml --jobs 2

Stopped or killed, it goes on with the same command: what is finished stays, what was running is resumed from its last
checkpoint. Several machines share a study through --storage, an SQLAlchemy URL of a database that Optuna takes.
Any configuration key can follow, and holds for all trials: --trainer.max_epochs 5 --trainer.accelerator gpu
"""

KEYS = """\
keys of a sweep file:
  base         the configuration that all trials start from; its path from the sweep file or from here
  search       configuration keys, each with a list of values or, unless it is a grid, a range: {low, high, log, step};
               integers if low and high are; a list over seed_everything repeats each point of a grid
  sampler      grid (default), random or tpe
  trials       how many, for random and tpe
  objectives   metrics of results.json, each with maximize or minimize; several make a Pareto front; never test/...
  pruning      median, or {startup_trials: 5, warmup_epochs: 10}: end what is worse than the median; one objective
  show         more metrics for table and pictures; test/... of the objectives unless given
  overrides    configuration keys and values, the same for all trials
  study        name of the study and its folder; the file's name unless given
  storage      <runs>/<study>/study.db unless given
  seed         of the sampler
  attempts     how often a trial that dies is tried: 3
"""


def main(args: list[str], cli: Any, be_quiet: Callable[[], None]) -> int:
    """Run a sweep; the exit code is 0, or 1 if a trial has failed for good.

    Args:
        args: The command line after ``sweep``.
        cli: The command line's class, which a trial is run by.
        be_quiet: Silences what a user can do nothing about; called in each process.

    Raises:
        UserError: When anything is wrong with the sweep, before a trial starts.
    """
    plan, jobs = _parse(args)
    tasks.quiet(be_quiet)
    check_storage(plan)
    _check_folder(plan)
    _check_configurations(cli, plan)
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{plan.folder}: cannot be written ({error.strerror}): set --runs to another folder") from error
    study = connect(plan)
    trials = Trials(plan, study)
    print(f"study {plan.study}: {plan.trials} trials, {len(trials.left())} left, in {plan.folder}", flush=True)
    if trials.left():
        tasks.run(jobs, be_quiet, _work, cli, plan)
    print(report.write(plan, trials), flush=True)
    return int(any(trials.given_up(attempts) for attempts in trials.by_slot().values()))


def _parse(args: list[str]) -> tuple[Plan, int]:
    options = parser.StudyParser(
        "sweep",
        description=DESCRIPTION,
        epilog=KEYS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("-c", "--config", type=Path, required=True, help="the sweep file")
    options.add_argument("--jobs", type=int, default=1, help="processes on this machine, which share its cores")
    options.add_argument("--runs", type=Path, help="folder of all runs (default: lightning_logs)")
    options.add_argument("--study", help="name of the study, instead of the file's")
    options.add_argument("--storage", help="URL of the study's database, instead of the file's")
    options.add_argument("--trials", type=int, help="how many, instead of the file's")
    given, overrides = options.parse_overriding(args)
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: expected at least 1")
    return read(given.config, vars(given), overrides), given.jobs


def _check_folder(plan: Plan) -> None:
    """Raise a UserError if the study's folder has trials of another sweep."""
    for mark in sorted(plan.folder.glob("trial_*/trial.json")):
        plan.refuse(json.loads(mark.read_text())["definition"], f"{mark.parent} is of a sweep")


def _check_configurations(cli: Any, plan: Plan) -> None:
    """Build every value of the search space and try one batch; raise a UserError for a wrong key, value or metric."""
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    choices = {k: v if isinstance(v, list) else [v.low, v.high] for k, v in plan.search.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a batch without anomalies has no AUROC
        try:
            for i in range(max(map(len, choices.values()))):
                values = {key: some[min(i, len(some) - 1)] for key, some in choices.items()}
                parser.build(cli, plan.arguments(values))
            # the base, not a combination that may take long
            tried = cli([*plan.arguments({}), *quiet, "--trainer.fast_dev_run=true"])
        except UserError as error:
            raise UserError(f"{plan.file}: {error}") from error
    known = {name for name in tried.trainer.callback_metrics if not name.startswith("hp/")}
    for key, names in (("objectives", list(plan.objectives)), ("show", plan.show)):
        for name in names:
            # a test may log more than training does
            if name not in known and not (key == "show" and name.startswith("test/")):
                raise UserError(f"{plan.file}: {key}: {name}: there is no such metric{suggest(name, sorted(known))}")


def _work(cli: Any, plan: Plan) -> None:
    """As :func:`work`, in any process: a connection is no other's."""
    work(cli, plan, connect(plan))


def work(cli: Any, plan: Plan, study: optuna.Study) -> None:
    """Run trials until none is left, of this process or any other."""
    trials = Trials(plan, study)
    while left := trials.left():
        with trials.claim() as claim:
            if claim is None:
                time.sleep(0.5)  # others run what is left; one of them may die
                continue
            name = f"trial {claim.slot:>3}  " + "  ".join(
                f"{short(k, plan.search)}={label(v, 4)}" for k, v in claim.values.items()
            )
            print(f"{name}  …  ({len(left)} left)", flush=True)
            print(f"{name}  {_attempt(cli, plan, trials, claim)}", flush=True)


def _attempt(cli: Any, plan: Plan, trials: Trials, claim: Claim) -> str:
    """Run a claimed trial, record how it ended, and say so."""
    trial = claim.trial
    try:
        with _beating(trial):
            content = train(cli, plan, claim)
    except optuna.TrialPruned as pruned:
        trials.tell(trial, None, epochs=int(str(pruned)))
        return f"pruned after {pruned} epochs"
    except (KeyboardInterrupt, SystemExit) as stop:
        trials.fail(trial, passed="interrupted")
        raise KeyboardInterrupt from stop  # SIGTERM would exit with 0, as if all were done
    except UserError as error:
        trials.fail(trial, error=str(error), final="the same would happen again")
        return f"failed: {error}"
    except Exception as error:
        (claim.folder / "error.txt").write_text(traceback.format_exc())
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        trials.fail(trial, error=what)
        return f"failed: {what} (see {claim.folder / 'error.txt'})"
    metrics = content["metrics"]
    trials.tell(trial, [metrics[name] for name in plan.objectives], **content)
    return "  ".join([*(f"{name} {metrics[name]:.4f}" for name in plan.objectives), f"in {content['seconds']:.0f} s"])


@contextlib.contextmanager
def _beating(trial: optuna.Trial) -> Iterator[None]:
    """Give signs of life."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(Exception):  # a storage out of reach for a while; or another took the trial over
                trial.set_user_attr("beat", time.time())

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


def train(cli: Any, plan: Plan, claim: Claim) -> dict[str, Any]:
    """Run a trial, resume it, or take what it left when it was finished: what its ``results.json`` holds.

    Raises:
        UserError: When the folder holds another run, or the run has no such objective.
    """
    _mark(plan, claim)
    results = claim.folder / runs.RESULTS
    for _ in range(2):
        if not results.is_file():
            callbacks = [Report(claim.trial, next(iter(plan.objectives)))] if plan.pruning else []
            home = ["--runs", str(plan.runs), "--experiment", plan.study]
            parser.fit(cli, [*plan.arguments(claim.values), *home], claim.folder, callbacks)
        content: dict[str, Any] = json.loads(results.read_text())
        found = {name: content["metrics"].get(name) for name in plan.objectives}
        if None not in found.values():
            break
        # killed after its last epoch: resumed, it had nothing left to train, and so no metrics of training
        shutil.rmtree(claim.folder / "checkpoints", ignore_errors=True)
        results.unlink()
    for name, value in found.items():
        if value is None or not abs(value) < float("inf"):
            raise UserError(f"objectives: {name} is {value or 'not among the metrics of this trial'}")
    return content


def _mark(plan: Plan, claim: Claim) -> None:
    """Write into the folder whose it is; refuse a folder that is another's."""
    mark = json.dumps({"definition": plan.definition(), "values": claim.values}, indent=2)
    path = claim.folder / "trial.json"
    if path.is_file() and json.loads(path.read_text()) != json.loads(mark):
        raise UserError(f"{claim.folder} holds a trial with other values: move it away, or choose another --study")
    claim.folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, mark)
