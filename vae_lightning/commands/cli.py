"""The commands, the parser, and what an error looks like."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..data import AnomalyDataModule
from ..errors import UserError
from ..models import AnomalyModel
from ..studies import benchmark, compare
from ..training import checkpoints, runs
from ..training.callbacks import Checked, DetectionMetrics, Pictures, Predictions
from ..training.callbacks.metrics import SCORES
from ..training.overhead import LeanTrainer, NoProfiler, spare_idle_hooks
from .messages import check_files, diagnose  # imports every family: short names work in YAML

COMMANDS = {
    "fit": "train, then test the kept weights once",
    "validate": "metrics of a checkpoint on the validation split",
    "test": "metrics of a checkpoint on the test split",
    "predict": "scores and decisions of a checkpoint, as a CSV file",
}
TOOLS = {  # commands that are no Trainer's, each with a parser of its own
    "benchmark": "train a configuration for each class and seed, and put its scores beside older methods",
    "compare": "put finished runs side by side: a table, ROC curves, training curves",
    "sweep": "many runs over a grid or a search space, that survive any interruption",
}


class Parser(LightningArgumentParser):
    """Says what is wrong in one line instead of sixty lines of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(message) from ex  # of a parser within a parser, too: put into words where the outermost ends


class SaveConfig(SaveConfigCallback):
    """Saves what the run is made of; where it was resumed from is no part of that."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        config = config.clone()
        config.ckpt_path = None
        super().__init__(parser, config, **kwargs)


class CLI(LightningCLI):
    """LightningCLI with runs in ``<runs>/<experiment>/version_<n>``, a test after fit, and checks before anything runs.

    Args:
        args: The command line, without the program's name.
    """

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            AnomalyModel,
            AnomalyDataModule,
            # what only looks at a run leaves its configuration alone
            save_config_callback=SaveConfig if args[:1] == ["fit"] else None,
            save_config_kwargs={"overwrite": True},
            trainer_class=LeanTrainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults={
                "logger": False,  # the run's folder is claimed once everything is known to be right
                "accelerator": "auto",
                "use_distributed_sampler": False,  # the loader shards by itself
            },
            parser_class=Parser,
            parser_kwargs={
                "prog": "python -m vae_lightning",
                "description": "Find anomalies with autoencoders and variational autoencoders.",
                "allow_abbrev": False,
            },
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        hidden = {"model", "dataloaders", "datamodule", "weights_only"}
        return {
            "fit": hidden | {"train_dataloaders", "val_dataloaders"},
            **{name: set(hidden) | {"verbose"} for name in ("validate", "test")},
            "predict": hidden | {"return_predictions"},
        }

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        assert parser._subcommands_action is not None
        for name, what in TOOLS.items():  # dispatched in main; here --help and a misspelt command list them
            parser._subcommands_action.add_subcommand(name, self.init_parser(), help=what)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.input_shape", "model.init_args.input_shape", apply_on="instantiate")
        parser.add_argument("--runs", type=str, default="lightning_logs", help="Folder of all runs.")
        parser.add_argument(
            "--experiment",
            type=str | None,
            default=None,
            help="Folder of this run's kind (default: the config's name).",
        )
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Whether `fit` ends with a test.")
        parser.add_argument(
            "--checkpoint_every_n_steps",
            type=int | None,
            default=None,
            help="Save last.ckpt every so many steps too, not only at the end of each epoch.",
        )
        parser.add_lightning_class_args(Pictures, "pictures")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.args = args
        try:
            self.config = parser.parse_args(args)
        except UserError as error:
            raise UserError(diagnose(str(error), args)) from error

    def _parse_ckpt_path(self) -> None:
        """The command line wins over the checkpoint's hyperparameters, and says so: see ``_prepare``."""

    @property
    def settings(self) -> Any:
        """The configuration of the chosen command."""
        return self.config[str(self.subcommand)]

    def before_instantiate_classes(self) -> None:
        if self.settings.experiment is None:
            files = self.settings.get("config") or []
            name = Path(str(files[-1])).stem if files else self.settings.model.class_path.rsplit(".", 1)[-1]
            self.settings.experiment = name

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:  # a constructor's complaint, perhaps wrapped by the parser
            raise UserError(diagnose(str(error), self.args)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.record = runs.Record()
        extra: list[Callback] = [Predictions()] if self.subcommand == "predict" else [DetectionMetrics(), self.record]
        keep: dict[str, Any] = {"enable_version_counter": False, "auto_insert_metric_name": False}
        if self.settings.trainer.enable_progress_bar is not False:
            extra.append(TQDMProgressBar(refresh_rate=50))  # redrawing at each step would slow small nets down
        if self.settings.trainer.enable_checkpointing is not False:
            extra += [
                checkpoints.EpochCheckpoint(filename="best", monitor="val/objective", **keep),
                # its own callback: `save_last` of a monitored one goes stale
                checkpoints.EpochCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **keep),
            ]
            if steps := self.settings.checkpoint_every_n_steps:
                extra.append(checkpoints.StepCheckpoint(filename="last", every_n_train_steps=steps, **keep))
        self.trainer_defaults["callbacks"] = extra
        plugins = self._get(self.config_init, "trainer").get("plugins") or []
        plugins = [*(plugins if isinstance(plugins, list) else [plugins]), checkpoints.AtomicCheckpointIO()]
        kwargs.setdefault("profiler", self.config_init[str(self.subcommand)].trainer.profiler or NoProfiler())
        try:
            return super().instantiate_trainer(plugins=plugins, **kwargs)
        except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
            settings = self.settings.trainer
            given = {key: settings.get(key) for key in ("accelerator", "devices", "strategy", "precision")}
            what = ", ".join(f"{key} = {value}" for key, value in given.items() if value is not None)
            raise UserError(f"trainer ({what}): {' '.join(str(error).split())}") from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # checkpoints hold tensors and primitives alone: none can run code
        quiet = {"verbose": False} if subcommand in ("validate", "test") else {}  # a table of ours follows
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True, **quiet}

    def before_fit(self) -> None:
        self._prepare()
        spare_idle_hooks(self.trainer, self.model, self.datamodule)

    def before_validate(self) -> None:
        self._prepare()

    def before_test(self) -> None:
        self._prepare()

    def before_predict(self) -> None:
        self._prepare()

    @property
    def _tries(self) -> bool:
        """A development run writes nothing."""
        return bool(self.settings.trainer.fast_dev_run)

    def _prepare(self) -> None:
        """Find whatever is wrong while nothing has been written yet; then claim the run's folder."""
        self.datamodule.prepare_data()
        self.datamodule.setup(str(self.subcommand))
        path = self.settings.ckpt_path
        if path is None and self.subcommand != "fit":
            raise UserError(f"--ckpt_path is missing: {self.subcommand} needs a .ckpt file, `last` or `best`")
        folder = None
        if path is not None:
            content = checkpoints.read(Path(path))
            checkpoints.check(Path(path), content, self.model)
            if self.trainer.is_global_zero:
                for line in runs.differences(content["hyper_parameters"], self.model.hparams, self.subcommand == "fit"):
                    print(f"note: {line}", file=sys.stderr)
            folder = checkpoints.run_folder(Path(path))
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, Checked):
                callback.check(trainer, self.model, str(self.subcommand))
        if self._tries:
            return
        self.folder = runs.claim(Path(self.settings.runs) / self.settings.experiment, folder)
        if not self.trainer.loggers:
            # the whole path: a run resumed under another one would forget its best checkpoint
            *_, experiment, version = self.folder.resolve().parts
            root = self.folder.resolve().parent.parent
            self.trainer.logger = TensorBoardLogger(root, experiment, version, default_hp_metric=False)
        if self.subcommand == "fit":
            for name in (runs.RESULTS, SCORES):
                (self.folder / name).unlink(missing_ok=True)  # resumed: no longer finished

    def after_fit(self) -> None:
        if self._tries or self.trainer.interrupted:
            return
        metrics = self.record.metrics | runs.numbers(self.trainer.callback_metrics)
        kept = next((p for n in ("best", "last") if (p := self.folder / f"checkpoints/{n}.ckpt").is_file()), None)
        if self.settings.test_after_fit and kept:
            self.trainer.test(self.model, self.datamodule, ckpt_path=str(kept), verbose=False, weights_only=True)
            metrics |= runs.numbers(self.trainer.callback_metrics)
        if self.trainer.is_global_zero:
            epochs, seconds = self.trainer.current_epoch, self.record.seconds
            runs.write_results(self.folder, epochs, seconds, metrics)
            notes = [
                f"{epochs} epochs in {seconds:.1f} s; train and val are the last epoch's, test is the kept weights'"
            ]
            notes += [f"kept         {kept}"] if kept else []
            notes += self._warnings()
            print(runs.table(metrics, self.folder, notes))

    def after_validate(self) -> None:
        self._report()

    def after_test(self) -> None:
        self._report()

    def _report(self) -> None:
        if self.trainer.is_global_zero and not self._tries:
            notes = [f"checkpoint   {self.settings.ckpt_path}", *self._warnings()]
            print(runs.table(runs.numbers(self.trainer.callback_metrics), self.folder, notes))

    def _warnings(self) -> list[str]:
        leaks = any(threshold.leaks for threshold in self.model.detector.thresholds.values())
        return (
            ["caution      the threshold was fitted on test samples: F1, precision and recall flatter"] if leaks else []
        )

    def after_predict(self) -> None:
        if self.trainer.is_global_zero and not self._tries:
            print(f"predictions  {self.folder / 'predictions.csv'}")


def main(args: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for what the user got wrong, 1 for an interruption or a failed trial."""
    args = list(sys.argv[1:] if args is None else args)
    verbose = "--verbose" in args or os.environ.get("JSONARGPARSE_DEBUG", "").lower() not in ("", "0", "false")
    args = [arg for arg in args if arg != "--verbose"]
    _be_quiet()
    try:
        if args[:1] == ["compare"]:
            return compare.main(args[1:])
        if args[:1] == ["benchmark"]:
            return benchmark.main(args[1:], CLI, _be_quiet)
        if args[:1] == ["sweep"]:
            from ..studies import sweep  # needs Optuna, an extra

            return sweep.main(args[1:], CLI, _be_quiet)
        check_files(args)
        CLI(_with_checkpoint(args))
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the one into the other, once it has cleaned up
        if isinstance(stop, SystemExit) and stop.code != 1:
            raise
        how = "" if args[:1] in (["sweep"], ["benchmark"]) else " and --ckpt_path last"
        print(f"interrupted: resume with the same command{how}", file=sys.stderr)
        return 1
    except Exception as error:
        message = _user_message(error)
        if message is None:
            raise
        if verbose:
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return 2
    finally:
        runs.release()
    return 0


def _user_message(error: BaseException) -> str | None:
    """What the user got wrong, in one line; None for an error of the program's."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, torch.multiprocessing.ProcessRaisedException):  # from a process that a strategy has started
        last = str(error).strip().splitlines()[-1]
        name, _, message = last.partition(": ")
        return message if name.endswith("UserError") else None
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None


def _with_checkpoint(args: list[str]) -> list[str]:
    """Resolve ``--ckpt_path``, and take the configuration saved beside the checkpoint where none is given."""
    if len(args) < 2 or args[0] not in COMMANDS:
        return args
    command, rest = args[0], args[1:]
    given = _option(rest, "--ckpt_path")
    if given in (None, "null", "None"):
        return args
    config = _option(rest, "--config") or _option(rest, "-c")
    experiment = _option(rest, "--experiment") or (Path(config).stem if config else None)
    if config and Path(config).is_file() and not _option(rest, "--experiment"):
        experiment = (yaml.safe_load(Path(config).read_text()) or {}).get("experiment") or experiment
    path = checkpoints.find(str(given), Path(_option(rest, "--runs") or "lightning_logs"), experiment)
    rest = _without(rest, "--ckpt_path")
    folder = checkpoints.run_folder(path)
    if config is None:
        if folder is None:
            raise UserError(f"{path}: there is no config.yaml beside it: give the --config that it was trained with")
        rest = ["--config", str(folder / "config.yaml"), *rest]
    return [command, *rest, "--ckpt_path", str(path)]


def _option(args: list[str], name: str) -> str | None:
    """The last value of an option, as ``--name value`` or ``--name=value``."""
    value = None
    for i, arg in enumerate(args):
        if arg == name and i + 1 < len(args):
            value = args[i + 1]
        elif arg.startswith(f"{name}="):
            value = arg.partition("=")[2]
    return value


def _without(args: list[str], name: str) -> list[str]:
    kept, skip = [], False
    for arg in args:
        if not skip and arg != name and not arg.startswith(f"{name}="):
            kept.append(arg)
        skip = arg == name
    return kept


def _be_quiet() -> None:
    """No line that a user can do nothing about."""

    class Advertisement(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return "💡" not in record.getMessage()

    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(Advertisement())
    for pattern in (
        r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own call
        r".*smaller than the logging interval.*",  # means are logged once an epoch
        r".*Checkpoint directory .* exists and is not empty.*",  # resuming goes on in the same folder
        r".*dirpath has changed.*",
        r".*scheduler is using 'interval': 'epoch'.*",  # as it is documented here
        r".*Precision .* is not supported by the model summary.*",  # its weights are kept in 32 bits all the same
    ):
        warnings.filterwarnings("ignore", pattern)
