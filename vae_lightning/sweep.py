"""``python -m vae_lightning sweep``: many runs over a grid or a search space, compared on validation data."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing.connection
import os
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from lightning.pytorch import Callback, Trainer

from . import runs
from .errors import UserError
from .sweep_plan import Plan, label, read, short, suggest

try:
    import optuna
except ImportError as missing:
    raise UserError("sweep: Optuna is not installed: pip install -e '.[sweep]'") from missing

from . import sweep_report
from .sweep_trials import Claim, Trials, check_storage, connect

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


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"sweep: {message}: sweep --help lists what there is")


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
    _silence(be_quiet)
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
        _run(cli, be_quiet, plan, study, jobs)
    print(sweep_report.write(plan, trials), flush=True)
    return int(any(trials.given_up(attempts) for attempts in trials.by_slot().values()))


def _parse(args: list[str]) -> tuple[Plan, int]:
    parser = Parser(
        prog="python -m vae_lightning sweep",
        description=DESCRIPTION,
        epilog=KEYS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", type=Path, required=True, help="the sweep file")
    parser.add_argument("--jobs", type=int, default=1, help="processes on this machine, which share its cores")
    parser.add_argument("--runs", type=Path, help="folder of all runs (default: lightning_logs)")
    parser.add_argument("--study", help="name of the study, instead of the file's")
    parser.add_argument("--storage", help="URL of the study's database, instead of the file's")
    parser.add_argument("--trials", type=int, help="how many, instead of the file's")
    given, rest = parser.parse_known_args(args)
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: expected at least 1")
    return read(given.config, vars(given), _overrides(rest)), given.jobs


def _overrides(rest: list[str]) -> dict[str, Any]:
    """``--key value`` and ``--key=value``, any number of them."""
    settings: dict[str, Any] = {}
    words = iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise UserError(f"sweep: {word}: expected --key value")
        key, given, value = word[2:].partition("=")
        if not given and (value := next(words, "--")).startswith("--"):
            raise UserError(f"sweep: --{key}: the value is missing")
        settings[key] = yaml.safe_load(value)
    return settings


def _silence(be_quiet: Callable[[], None]) -> None:
    be_quiet()
    for name in ("lightning.pytorch", "lightning.fabric"):  # which devices there are, once per trial
        logging.getLogger(name).setLevel(logging.WARNING)


def _check_folder(plan: Plan) -> None:
    """Raise a UserError if the study's folder has trials of another sweep."""
    for mark in sorted(plan.folder.glob("trial_*/trial.json")):
        plan.refuse(json.loads(mark.read_text())["definition"], f"{mark.parent} is of a sweep")


def _check_configurations(cli: Any, plan: Plan) -> None:
    """Build every value of the search space and try one batch; raise a UserError for a wrong key, value or metric."""

    class Build(cli):
        def _run_subcommand(self, subcommand: str) -> None:
            """Everything is built, nothing is run."""

    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    choices = {k: v if isinstance(v, list) else [v.low, v.high] for k, v in plan.search.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a batch without anomalies has no AUROC
        try:
            for i in range(max(map(len, choices.values()))):
                values = {key: some[min(i, len(some) - 1)] for key, some in choices.items()}
                Build([*plan.arguments(values), *quiet])
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


def _run(cli: Any, be_quiet: Callable[[], None], plan: Plan, study: optuna.Study, jobs: int) -> None:
    """Work off the trials, in this process or in several."""
    if jobs == 1:
        return work(cli, plan, study)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, min(torch.get_num_threads(), cores // jobs))
    # forks of a clean process: a fork of this one would share database connections, threads and CUDA
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, cli.__module__])  # imported once for all
    spares = 3 * jobs  # a process may run out of memory or be killed; all of them, again and again, may not
    arguments = (cli, be_quiet, plan, threads)
    processes = [context.Process(target=_worker, args=arguments) for _ in range(jobs)]
    for process in processes:
        process.start()
    try:
        while processes:
            multiprocessing.connection.wait([process.sentinel for process in processes])
            ended = [process for process in processes if not process.is_alive()]
            processes = [process for process in processes if process.is_alive()]
            for process in ended:
                if process.exitcode == 0:
                    continue
                if spares == 0:
                    raise UserError(f"sweep: processes keep dying (exit code {process.exitcode}): try fewer --jobs")
                spares -= 1
                processes.append(context.Process(target=_worker, args=arguments))
                processes[-1].start()
    finally:  # interrupted: each records that its trial is nobody's fault
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    return None


def _worker(cli: Any, be_quiet: Callable[[], None], plan: Plan, threads: int) -> None:
    """One of several processes, which ends with the one that started it."""

    def follow() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)  # killed, it cannot say so: nobody would wait for what is done here

    threading.Thread(target=follow, daemon=True).start()
    _silence(be_quiet)
    torch.set_num_threads(threads)
    try:
        work(cli, plan, connect(plan))
    except KeyboardInterrupt:
        sys.exit(1)  # the process that started this one says so, or starts another if it was not meant


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
            _fit(cli, plan, claim)
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
    temporary = path.with_suffix(".tmp")
    temporary.write_text(mark)
    os.replace(temporary, path)


def _fit(cli: Any, plan: Plan, claim: Claim) -> None:
    class Trial(cli):
        """A fit that reports to the study and prints no table of its own."""

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer: Any = super().instantiate_trainer(**kwargs)
            if plan.pruning:
                trainer.callbacks.insert(0, Report(claim.trial, next(iter(plan.objectives))))
            return trainer

        def after_fit(self) -> None:
            with contextlib.redirect_stdout(StringIO()):
                super().after_fit()

    arguments = ["--runs", str(plan.runs), "--experiment", plan.study]
    arguments += [f"--trainer.{key}=false" for key in ("enable_progress_bar", "enable_model_summary")]
    if (last := claim.folder / "checkpoints/last.ckpt").is_file():
        arguments += ["--ckpt_path", str(last)]
    # resolved: Lightning forgets the best checkpoint of a run that is resumed under another spelling of its folder
    os.environ[runs.VARIABLE] = str(claim.folder.resolve())
    try:
        Trial([*plan.arguments(claim.values), *arguments])
    finally:
        runs.release()
    if not (claim.folder / runs.RESULTS).is_file():
        raise KeyboardInterrupt  # stopped by a signal, in order
