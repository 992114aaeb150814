"""The study in Optuna's storage: reached, or refused in one line; and what is written of a trial's end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ...errors import UserError
from .plan import Plan

optuna.logging.set_verbosity(optuna.logging.ERROR)


def connect(plan: Plan) -> optuna.Study:
    """The plan's study, made if there is none.

    Raises:
        UserError: When the storage cannot be reached, or the name is another plan's.
    """
    warmup = plan.pruning or {"startup_trials": 0, "warmup_epochs": 0}
    pruner = optuna.pruners.MedianPruner(warmup["startup_trials"], warmup["warmup_epochs"])
    with _reaching(plan):
        lite = plan.storage.startswith("sqlite")
        # processes that share a file wait for each other's writes
        options = {"connect_args": {"timeout": 120}} if lite else {"pool_pre_ping": True}
        storage = optuna.storages.RDBStorage(_template(plan.storage), engine_kwargs=options)
        study = optuna.create_study(
            study_name=plan.study,
            storage=storage,
            directions=[optuna.study.StudyDirection[direction.upper()] for direction in plan.objectives.values()],
            pruner=pruner if plan.pruning else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        if "definition" not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr("definition", plan.definition())
        plan.refuse(study.user_attrs.get("definition"), "the name is taken by a study")
    return study


def check_storage(plan: Plan) -> None:
    """Raise a UserError if the storage cannot be reached or the name is another plan's; make no study."""
    with _reaching(plan):
        url = make_url(plan.storage)
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            path = Path(str(url.database))
            if not path.exists():
                if path.parent.resolve() != plan.folder.resolve() and not path.parent.is_dir():
                    raise UserError(f"{plan.file}: storage = {plan.storage}: there is no folder {path.parent}")
                return
        elif url.get_backend_name() == "sqlite":
            raise UserError(f"{plan.file}: storage = {plan.storage}: it would not outlast the process: name a file")
        storage = optuna.storages.RDBStorage(_template(plan.storage))
        found = next((s for s in storage.get_all_studies() if s.study_name == plan.study), None)
        if found and ("definition" in found.user_attrs or storage.get_n_trials(found._study_id)):
            plan.refuse(found.user_attrs.get("definition"), "the name is taken by a study")


def _template(url: str) -> str:
    """What Optuna makes that URL of: it takes names in braces for its own."""
    return url.replace("{", "{{").replace("}", "}}")


@contextlib.contextmanager
def _reaching(plan: Plan) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        try:
            url = make_url(plan.storage).render_as_string(hide_password=True)
        except SQLAlchemyError:
            url = plan.storage
        cause = str(getattr(error, "orig", None) or error.__cause__ or error).strip().splitlines() or [""]
        raise UserError(f"{plan.file}: storage = {url}: cannot be used: {cause[0]}") from error


def tell(study: optuna.Study, trial: optuna.Trial, values: list[float] | None, **attrs: Any) -> None:
    """Record a trial's result; without values it was pruned."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):  # taken over while suspended
        for name, value in attrs.items():
            trial.set_user_attr(name, value)
        study.tell(trial, values, TrialState.PRUNED if values is None else TrialState.COMPLETE)


def fail(study: optuna.Study, trial: optuna.Trial | FrozenTrial, **why: str) -> None:
    """Call a trial failed: ``error`` says what happened, ``final`` that it would happen again, ``passed`` that it is
    nobody's fault and does not count as an attempt.
    """
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):  # another was faster
        for name, value in why.items():
            study._storage.set_trial_user_attr(trial._trial_id, name, value)
        study.tell(trial.number, state=TrialState.FAIL)
