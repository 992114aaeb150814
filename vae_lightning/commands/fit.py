"""``vae-lightning fit``: train, keep the best epoch and the last, test the kept weights once."""

from __future__ import annotations

from typing import Any

from ..training import runs
from ..training.callbacks.metrics import SCORES
from ..training.callbacks.pictures import axis_name
from .prepare import prepare


def before(cli: Any) -> None:
    """Claim the run's folder."""
    prepare(cli)


def begin(cli: Any) -> None:
    """A run that is resumed is no longer finished."""
    claimed = hasattr(cli, "folder")  # a benchmark of tables trains what it has only built, and keeps no folder
    if claimed and not cli.tries and cli.trainer.is_global_zero:
        for name in (runs.RESULTS, SCORES):
            (cli.folder / name).unlink(missing_ok=True)


def after(cli: Any) -> None:
    """Test what was kept, write ``results.json`` last, and print the outcome."""
    if cli.tries or cli.trainer.interrupted:
        return
    metrics = cli.record.metrics | runs.numbers(cli.trainer.callback_metrics)
    kept = next((p for n in ("best", "last") if (p := cli.folder / f"checkpoints/{n}.ckpt").is_file()), None)
    tested = bool(cli.settings.test_after_fit and kept and cli.datamodule.has("test"))
    if tested:
        cli.trainer.test(cli.model, cli.datamodule, ckpt_path=str(kept), verbose=False, weights_only=True)
        metrics |= runs.numbers(cli.trainer.callback_metrics)
    if cli.trainer.is_global_zero:
        epochs, seconds = cli.trainer.current_epoch, cli.record.seconds
        runs.write_results(cli.folder, epochs, seconds, metrics)
        notes = [f"{epochs} epochs in {seconds:.1f} s; train and val: last epoch; test: kept weights"]
        notes += [f"kept         {kept}"] if kept else []
        notes += runs.cautions(cli.model, metrics, tested)
        print(runs.table(metrics, cli.folder, notes, axis_name(cli.model.detector)))
