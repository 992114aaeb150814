"""The parser of fit, validate, test and predict: LightningCLI, with what is wrong said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..data import AnomalyDataModule
from ..errors import UserError
from ..files import check_yaml
from ..models import AnomalyModel
from ..training import checkpoints, runs
from ..training.callbacks import Pictures, Predictions
from ..training.trainer import Trainer
from . import evaluate, fit, predict
from .held import begin
from .help import PROGRAM, STUDIES
from .limits import check_settings
from .messages import diagnose  # imports every family: short names work in YAML

load_yaml = get_loader("yaml")


def _load_bounded(text: str) -> Any:
    check_yaml(text)
    return load_yaml(text)


set_loader("yaml", _load_bounded, (yaml.YAMLError,))  # of files within files, and of values on the command line


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


class Begin(Callback):
    """Says when the command has begun: from then on it has a folder, and standard error is free."""

    def __init__(self, cli: CLI) -> None:
        self.cli = cli

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        fit.begin(self.cli)
        begin()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            begin()

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        begin()

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        begin()


class CLI(LightningCLI):
    """LightningCLI with runs in ``<runs>/<experiment>/version_<n>``; what a command does is in its own module.

    Args:
        args: The command line, without the program's name.
    """

    asked: str | None
    record: runs.Record
    folder: Path

    def __init__(self, args: list[str]) -> None:
        self.asked = args[0] if args else None
        super().__init__(
            AnomalyModel,
            AnomalyDataModule,
            # what only looks at a run leaves its configuration alone
            save_config_callback=SaveConfig if args[:1] == ["fit"] else None,
            save_config_kwargs={"overwrite": True},
            trainer_class=Trainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults={
                "logger": False,  # the run's folder is claimed once everything is known to be right
                "accelerator": "auto",
            },
            parser_class=Parser,
            parser_kwargs={
                "prog": PROGRAM,
                "description": "Find anomalies with autoencoders and variational autoencoders.",
                "allow_abbrev": False,
            },
            args=args,
        )

    # What can be given

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        hidden = {"model", "dataloaders", "datamodule", "weights_only"}
        every = {
            "fit": hidden | {"train_dataloaders", "val_dataloaders"},
            **{name: set(hidden) | {"verbose"} for name in ("validate", "test")},
            "predict": hidden | {"return_predictions"},
        }
        # a parser takes a fifth of a second: the one that is asked for will do
        return {name: keys for name, keys in every.items() if self.asked not in every or name == self.asked}

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        assert parser._subcommands_action is not None
        for name, what in STUDIES.items():  # dispatched in main; here --help and a misspelt command list them
            parser._subcommands_action.add_subcommand(name, self.init_parser(), help=what)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--fdr", type=float | None, default=None, help=predict.FDR)
        return parser

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

    def _add_instantiators(self) -> None:
        """None: a model keeps its own arguments; to hand them over, Lightning would write the whole configuration."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.args = args
        try:
            self.config = parser.parse_args(args)
        except UserError as error:
            raise UserError(diagnose(str(error), args)) from error
        check_settings(self.config[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """The command line wins over what the checkpoint was made with, and says so: see ``prepare``."""

    @property
    def settings(self) -> Any:
        """The configuration of the chosen command."""
        return self.config[str(self.subcommand)]

    @property
    def tries(self) -> bool:
        """Whether this is a development run, which writes nothing."""
        return bool(self.settings.trainer.fast_dev_run)

    # What is built of it

    def before_instantiate_classes(self) -> None:
        if self.settings.experiment is None:
            files = self.settings.get("config") or []
            name = Path(str(files[-1])).stem if files else self.settings.model.class_path.rsplit(".", 1)[-1]
            self.settings.experiment = name

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:  # a constructor's complaint, perhaps wrapped by the parser
            raise UserError(diagnose(str(error), self.args)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.record = runs.Record()
        self.trainer_defaults["callbacks"] = self._callbacks()
        try:
            trainer: Any = super().instantiate_trainer(**kwargs)
            return trainer
        except UserError:
            raise
        except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
            settings = self.settings.trainer
            given = {key: settings.get(key) for key in ("accelerator", "devices", "strategy", "precision")}
            what = ", ".join(f"{key} = {value}" for key, value in given.items() if value is not None)
            raise UserError(f"trainer ({what}): {' '.join(str(error).split())}") from error

    def _callbacks(self) -> list[Callback]:
        predicts = self.subcommand == "predict"
        found: list[Callback] = [Begin(self), Predictions(fdr=self.settings.fdr) if predicts else self.record]
        if self.settings.trainer.enable_checkpointing is not False:
            found += checkpoints.callbacks(every_n_steps=self.settings.checkpoint_every_n_steps)
        return found

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # checkpoints hold tensors and primitives alone: none can run code
        quiet = {"verbose": False} if subcommand in ("validate", "test") else {}  # a table of ours follows
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True, **quiet}

    # What each command does before and after Lightning's part

    def before_fit(self) -> None:
        fit.before(self)

    def after_fit(self) -> None:
        fit.after(self)

    def before_validate(self) -> None:
        evaluate.before(self)

    def after_validate(self) -> None:
        evaluate.after(self)

    def before_test(self) -> None:
        evaluate.before(self)

    def after_test(self) -> None:
        evaluate.after(self)

    def before_predict(self) -> None:
        evaluate.before(self)

    def after_predict(self) -> None:
        predict.after(self)
