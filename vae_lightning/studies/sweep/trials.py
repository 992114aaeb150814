"""Who runs which trial: any number of processes on any number of machines share a study, and any may be killed.

A plan has ``trials`` slots, and each slot a run folder, ``trial_<slot>``. A slot may take several of Optuna's trials
until one ends well: those that died stand in the study as failed. Nothing but the study says what is to be done next,
so a process that is killed at any moment leaves nothing to repair but the trial that it was running.

Whether a running trial is still alive is answered on its own machine by a lock that the system releases with the
process, and elsewhere by the time at which it last gave a sign of life.
"""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from ... import files
from ..tasks import Task
from .plan import Plan, Range, label
from .storage import connect, fail
from .trial import Trial

HOST = f"{socket.gethostname()}:{uuid.getnode():x}"
SILENCE = 300  # seconds without a sign of life until another machine's trial counts as dead
TAKEN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


class Trials:
    """The slots of a plan, as this process sees them.

    Args:
        plan: Which trials there are.
        study: Its study, shared with all other processes.
    """

    def __init__(self, plan: Plan, study: optuna.Study) -> None:
        self.plan, self.study = plan, study
        self.locks = plan.folder.resolve() / ".locks"
        self.locks.mkdir(exist_ok=True)

    def by_slot(self) -> dict[int, list[FrozenTrial]]:
        """All of Optuna's trials of each slot, oldest first."""
        slots: dict[int, list[FrozenTrial]] = {slot: [] for slot in range(self.plan.trials)}
        for trial in self.study.get_trials(deepcopy=False):
            slots.get(trial.user_attrs.get("slot", -1), []).append(trial)
        return slots

    def counted(self, trials: list[FrozenTrial]) -> FrozenTrial | None:
        """The one trial of a slot that counts: the first that neither failed nor waits."""
        return next((trial for trial in trials if trial.state in TAKEN), None)

    def given_up(self, trials: list[FrozenTrial]) -> bool:
        """Whether a slot has died or failed so often that another attempt makes no sense."""
        failed = [t for t in trials if t.state == TrialState.FAIL and "passed" not in t.user_attrs]
        return len(failed) >= self.plan.attempts or any("final" in t.user_attrs for t in failed)

    def left(self) -> list[int]:
        """The slots that have neither ended nor been given up."""

        def ended(trials: list[FrozenTrial]) -> bool:
            counted = self.counted(trials)
            return counted.state.is_finished() if counted else self.given_up(trials)

        return [slot for slot, trials in self.by_slot().items() if not ended(trials)]

    @contextlib.contextmanager
    def claim(self) -> Iterator[Trial | None]:
        """The next slot that nobody has, held until the context ends; None while there is none."""
        with self.claim_group([[slot] for slot in range(self.plan.trials)]) as claims:
            yield claims[0] if claims else None

    @contextlib.contextmanager
    def claim_group(self, groups: Sequence[Sequence[int]]) -> Iterator[list[Trial]]:
        """Those slots of the next group that nobody has, held until the context ends; none while there are none."""
        with contextlib.ExitStack() as held:
            with files.lock(self.locks / "claims", wait=True):
                self._bury()
                slots = self.by_slot()
                claims = (self._claim(held, [(slot, slots[slot]) for slot in group]) for group in groups)
                claimed = next(filter(None, claims), [])
            yield claimed

    def _claim(self, held: contextlib.ExitStack, slots: list[tuple[int, list[FrozenTrial]]]) -> list[Trial]:
        claimed = []
        for slot, trials in slots:
            if self.counted(trials) or self.given_up(trials):
                continue
            with contextlib.ExitStack() as lock:
                if lock.enter_context(files.lock(self.locks / str(slot))) and (trial := self._ask(slot, trials)):
                    held.push(lock.pop_all())
                    claimed.append(Trial(self.plan, self.study, trial, slot, self._values(trial)))
        return claimed

    def _values(self, trial: optuna.Trial) -> dict[str, Any]:
        return {key: _suggest(trial, key, options) for key, options in self.plan.search.items()}

    def foreseen(self, slot: int) -> dict[str, Any]:
        """The values that a slot will have; with a sampler that learns from results nobody knows."""
        if cell := self.plan.cell(slot):
            return cell
        return self._values(optuna.create_study(sampler=self._sampler(slot)).ask())

    def _ask(self, slot: int, trials: list[FrozenTrial]) -> optuna.Trial | None:
        """A running trial for a slot, unless another machine has just got one."""
        owner = {"host": HOST, "lock": str(self.locks / str(slot)), "beat": time.time()}
        # number and attributes appear at once: of two machines that want a slot, the lower number has it
        if not any(trial.state == TrialState.WAITING for trial in trials):
            self.study.enqueue_trial(self._fixed(slot, trials), user_attrs={"slot": slot, **owner})
        trial = self.study.ask()
        counted = self.counted(self.by_slot()[slot])
        if trial.user_attrs.get("slot") != slot or counted is None or counted.number != trial.number:
            fail(self.study, trial, passed="another process was faster")
            return None
        if not owner.items() <= trial.user_attrs.items():  # another process had enqueued it
            for name, value in owner.items():
                trial.set_user_attr(name, value)
        for step, value in (trials[-1].intermediate_values if trials else {}).items():
            trial.report(value, step)  # what was reported before it died
        self.study.sampler = self._sampler(slot)
        return trial

    def _fixed(self, slot: int, trials: list[FrozenTrial]) -> dict[str, Any]:
        """What is known of a slot's parameters beforehand: its cell of the grid, or what it tried when it died."""
        if self.plan.sampler == "grid":
            return {key: choice(value) for key, value in self.plan.cell(slot).items()}
        return dict(trials[-1].params) if trials else {}

    def _sampler(self, slot: int) -> optuna.samplers.BaseSampler:
        # a seed for each slot: with one for each process, all of them, and each restart, would draw the same numbers
        seed = int(np.random.SeedSequence([self.plan.seed, slot]).generate_state(1)[0])
        if self.plan.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True)
        return optuna.samplers.RandomSampler(seed)

    def _bury(self) -> None:
        """Call failed what says that it runs and does not."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            attrs = trial.user_attrs
            started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            if attrs.get("host") == HOST:
                dead = files.free(Path(attrs["lock"]))
            else:
                dead = time.time() - attrs.get("beat", started) > SILENCE
            if dead:
                fail(self.study, trial, error="its process died")


def ledger(plan: Plan) -> Generator[Task, None, None]:
    """Trials until none is left, of this process or any other."""
    trials = Trials(plan, connect(plan))
    while left := trials.left():
        with trials.claim() as trial:
            if trial is None:
                time.sleep(0.5)  # others run what is left; one of them may die
                continue
            print(f"{trial}  …  ({len(left)} left)", flush=True)
            yield trial


def choice(value: Any) -> Any:
    """A value as Optuna can store it."""
    return value if value is None or isinstance(value, bool | int | float | str) else label(value)


def _suggest(trial: optuna.Trial, key: str, options: list[Any] | Range) -> Any:
    if isinstance(options, Range):
        if all(isinstance(value, int) for value in (options.low, options.high, options.step or 1)):
            return trial.suggest_int(
                key, int(options.low), int(options.high), step=int(options.step or 1), log=options.log
            )
        return trial.suggest_float(key, options.low, options.high, step=options.step, log=options.log)
    known = [choice(value) for value in options]
    return options[known.index(trial.suggest_categorical(key, known))]
