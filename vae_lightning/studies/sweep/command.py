"""``vae-lightning sweep``: many runs over a grid or a search space, compared on validation data."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import UserError
from .. import tasks
from ..parser import StudyParser
from . import groups, report
from .plan import Plan
from .plan_file import read, suggest
from .storage import check_storage, connect
from .trials import Trials, ledger

DESCRIPTION = """\
Train many runs that differ in some configuration keys, and compare them on
validation data.

  vae-lightning sweep --config sweeps/fashion_mnist --jobs 2

If it is stopped or killed, the same command continues it: finished trials are
kept, others are resumed from their last checkpoint. Several machines can share
a study through --storage, the SQLAlchemy URL of a database that Optuna supports.
Any configuration key can follow and applies to all trials:
--trainer.max_epochs 5 --trainer.accelerator gpu
"""

KEYS = """\
keys of a sweep file:
  base         the configuration that all trials start from; its path is relative
               to the sweep file or to the current folder
  search       configuration keys, each with a list of values or, unless it is a
               grid, a range: {low, high, log, step}, of integers if low and high
               are; a list for seed_everything repeats each point of a grid
  sampler      grid (default), random or tpe
  trials       how many, for random and tpe
  objectives   metrics of results.json, each with maximize or minimize; several
               give a Pareto front; never test/...
  pruning      median, or {startup_trials: 5, warmup_epochs: 10}: stop trials
               worse than the median; only with a single objective
  show         more metrics for table and pictures (default: test/... of the
               objectives)
  overrides    configuration keys and values, the same for all trials
  study        name of the study and its folder (default: the file's name)
  storage      default: <runs>/<study>/study.db
  seed         of the sampler
  attempts     how often a trial that dies is tried (default: 3)

with --batch
  Trials that differ in model.init_args.beta, model.init_args.optimizer.init_args.lr
  and seed_everything alone are trained as one module, up to 32 at once, which takes
  little longer than one. Each comes to what it would come to alone, up to rounding,
  with the same files but pictures/. Others run one after another, and a line says why:
  networks that are not an MLP, dropout, ensembles, samples drawn anew in each epoch,
  schedulers that wait for a metric, callbacks, and most settings of the trainer beyond
  max_epochs and where it runs. Not with tpe or pruning. If it is killed, trials
  that have ended are kept; the others of their group start again.
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
    plan, jobs, batch = _parse(args)
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
    if trials.left() and batch:
        tasks.run(cli, jobs, be_quiet, groups.ledger, plan, groups.plan_groups(cli, plan, trials, jobs))
    elif trials.left():
        tasks.run(cli, jobs, be_quiet, ledger, plan)
    print(report.write(plan, trials), flush=True)
    return int(any(trials.given_up(attempts) for attempts in trials.by_slot().values()))


def _parse(args: list[str]) -> tuple[Plan, int, bool]:
    parser = StudyParser(
        "sweep",
        description=DESCRIPTION,
        epilog=KEYS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", type=Path, required=True, help="the sweep file")
    parser.add_argument("--jobs", type=int, default=1, help="processes on this machine, which share its cores")
    parser.add_argument("--batch", action="store_true", help="train trials of equal shape together, see below")
    parser.add_argument("--runs", type=Path, help="folder of all runs (default: lightning_logs)")
    parser.add_argument("--study", help="name of the study, instead of the file's")
    parser.add_argument("--storage", help="URL of the study's database, instead of the file's")
    parser.add_argument("--trials", type=int, help="number of trials, instead of the file's")
    given, overrides = parser.parse_overriding(args)
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: expected at least 1")
    plan = read(given.config, vars(given), overrides)
    if given.batch:
        groups.check(plan)
    return plan, given.jobs, given.batch


def _check_folder(plan: Plan) -> None:
    """Raise a UserError if the study's folder has trials of another sweep."""
    for mark in sorted(plan.folder.glob("trial_*/trial.json")):
        plan.refuse(json.loads(mark.read_text())["definition"], f"{mark.parent} is of a sweep")


def _check_configurations(cli: Any, plan: Plan) -> None:
    """Build every value of the search space and try one batch; raise a UserError for a wrong key, value or metric."""
    choices = {k: v if isinstance(v, list) else [v.low, v.high] for k, v in plan.search.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a batch without anomalies has no AUROC
        try:
            for i in range(max(map(len, choices.values()))):
                values = {key: some[min(i, len(some) - 1)] for key, some in choices.items()}
                tasks.build(cli, plan.arguments(values))
            # the base, not a combination that may take long
            tried = cli([*plan.arguments({}), *tasks.SILENT, "--trainer.fast_dev_run=true"])
        except UserError as error:
            raise UserError(f"{plan.file}: {error}") from error
    known = set(tried.trainer.callback_metrics)
    for key, names in (("objectives", list(plan.objectives)), ("show", plan.show)):
        for name in names:
            # a test may log more than training does
            if name not in known and not (key == "show" and name.startswith("test/")):
                raise UserError(f"{plan.file}: {key}: {name}: there is no such metric{suggest(name, sorted(known))}")
