"""What the tests of faults share: processes of their own that have everything imported, and ways to end them."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vae_lightning.detection import storage
from vae_lightning.models.steps import Steps

NIGHTLY = os.environ.get("FAULTS") == "nightly"  # many more cases


def forked(work: Callable[[], Any]) -> int:
    """Run something in a process of its own; its exit code, or minus the signal that has ended it."""
    sys.stdout.flush()
    if not (child := os.fork()):
        code = 70
        try:
            torch.cuda._is_in_bad_fork = lambda: False  # type: ignore[attr-defined]  # nobody uses it, here or there
            os.setsid()  # a group of its own, to kill the processes that it starts with it
            code = work() or 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(event: str, count: int) -> None:
    """From now on, in this process: die by SIGKILL when something happens for the ``count``-th time.

    Args:
        event: ``step``, a training step begins; ``validation``, a validation step begins; ``writing``, a checkpoint
            has been written and is not in its place yet; ``written``, it is.
        count: From 1.
    """
    seen = 0

    def die() -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            os.killpg(0, signal.SIGKILL)

    def before(function: Any, *, after: bool = False) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not after:
                die()
            found = function(*args, **kwargs)
            if after:
                die()
            return found

        return wrapped

    if event in ("writing", "written"):
        os.replace = before(os.replace, after=event == "written")
    else:
        name = {"step": "training_step", "validation": "validation_step"}[event]
        setattr(Steps, name, before(getattr(Steps, name)))


def wait_for_another_second(folder: Path) -> None:
    """TensorBoard orders a run's files by the second at which they were opened, which their names begin with."""
    while any(int(path.name.split(".")[3]) >= int(time.time()) for path in folder.glob("events.out.tfevents.*")):
        time.sleep(0.01)


def content(path: Path) -> dict[str, Any]:
    """A checkpoint without what no two runs have in common: the time they took."""
    found = storage.read(path)
    found.pop("record", None)
    return found


NAMES = {"dirpath", "best_model_path", "last_model_path", "kth_best_model_path", "best_k_models"}


def trained_state(run: Path) -> dict[str, Any]:
    """The checkpoints of a run's folder, without the names of folders and what Lightning writes and does not load."""
    found = {name: content(run / f"checkpoints/{name}.ckpt") for name in ("last", "best")}
    for state in found.values():
        for callback in state["callbacks"].values():
            if isinstance(callback, dict):
                for key in NAMES | {"current_score"}:
                    callback.pop(key, None)
    return found


def assert_equal(found: Any, expected: Any, where: str = "") -> None:
    """Equal to the bit, all the way down."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert found.shape == expected.shape, where
        assert torch.equal(found.nan_to_num(), expected.nan_to_num()), where
        assert torch.equal(found.isnan(), expected.isnan()), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_equal(found[key], value, f"{where}/{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_equal(found[i], value, f"{where}/{i}")
    else:
        assert found == expected or found != found, f"{where}: {found} is not {expected}"


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: each scalar's steps and values."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
