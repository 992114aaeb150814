"""What ``--help`` says of the commands that Lightning's parser would give five hundred lines. Imports nothing."""

from __future__ import annotations

PROGRAM = "vae-lightning"
COMMANDS = {  # the Trainer's
    "fit": "train, then test the kept weights once",
    "validate": "metrics of a checkpoint on the validation split",
    "test": "metrics of a checkpoint on the test split",
    "predict": "scores, p-values and decisions of a checkpoint, as a table",
}
STUDIES = {  # each with a parser of its own
    "benchmark": "one training per class and seed, compared with other methods",
    "compare": "finished runs side by side: a table, ROC and training curves",
    "completion": "a script for command completion in bash, zsh or tcsh",
    "diagnose": "what is wrong with a finished run, in one table",
    "export": "a checkpoint as one ONNX or pt2 file, checked against it",
    "report": "a finished run as one HTML file",
    "score": "a folder of files, file by file, here or on a cluster",
    "serve": "a detector as a service: scores over HTTP",
    "sweep": "many runs over a grid or a search space, resumable",
}

OVERVIEW = """\
usage: {program} COMMAND [options]

Find anomalies with autoencoders and variational autoencoders.

{commands}

{program} COMMAND --help says more about each.
--verbose shows the traceback of an error.
"""

FIT = """\
usage: {program} fit --config FILE [options]

Train, keep the best epoch and the last, and test the best once.

  {program} fit --config beta_vae
  {program} fit --config beta_vae --model.init_args.beta 0.5
  {program} fit --config conv_vae --data FashionMNIST
  {program} fit --ckpt_path last

what to run
  --config FILE         a configuration, or the name of a shipped one such as
                        beta_vae; with several, the last wins
  --ckpt_path FILE      continue a run: last, best, or a run's last.ckpt; the
                        configuration comes with it
  --seed_everything N   seed of weights, order and noise (default: 0)
  --model CLASS         VAE, Autoencoder, IWAE, or your own module.Class
  --model.init_args.KEY VALUE
                        beta, latent_dim, network, likelihood, scores,
                        threshold, optimizer, lr_scheduler …
  --data CLASS          MNIST, FashionMNIST, Digits, Table, Images,
                        SyntheticMixture, Corrupted, or your own module.Class
  --data.init_args.KEY VALUE
                        normal_classes, val_fraction, calibration_fraction,
                        contamination, batch_size, seed …

how to train
  --trainer.max_epochs N, --trainer.max_steps N, --trainer.max_time DD:HH:MM:SS
  --trainer.accelerator auto|cpu|gpu, --trainer.devices N
  --trainer.strategy ddp, --trainer.precision bf16-mixed
  --trainer.gradient_clip_val X, --trainer.accumulate_grad_batches N
  --trainer.callbacks+=CLASS
  --trainer.fast_dev_run true     one batch of everything; writes nothing

where the results go
  --runs FOLDER         of all runs (default: lightning_logs)
  --experiment NAME     folder in it (default: the configuration's name); each
                        run is a version_<n> in that folder
  --checkpoint_every_n_steps N    save last.ckpt within epochs, too
  --test_after_fit false          do not test at the end
  --pictures.every_n_epochs N     reconstructions, histograms, latent space (5)

{rest}
"""

EVALUATE = """\
usage: {program} {command} --ckpt_path FILE [options]

{what}

  {program} {command} --ckpt_path best
  {program} {command} --ckpt_path lightning_logs/…/checkpoints/best.ckpt

  --ckpt_path FILE      a checkpoint; best or last of the newest run; model and
                        data come with it
  --config FILE         a configuration with another model or other data
  --data CLASS, --data.init_args.KEY VALUE      other data
  --model.init_args.scores [CLASS, …]           other scores
  --trainer.accelerator auto|cpu|gpu, --trainer.devices N
  --runs FOLDER         of all runs (default: lightning_logs){more}

{rest}
"""

WHAT = {
    "validate": "The metrics of a checkpoint on its validation split.",
    "test": "The metrics of a checkpoint on its test split.",
    "predict": """\
Scores, p-values and decisions of a checkpoint, one row per sample: for the
test split of its data set, in predictions.csv in the run's folder; or, with
--input, for any file or folder.""",
}
MORE = {
    "predict": """
  --fdr X               bound the share of false alarms among the alarms

a file or a folder
  {program} predict --ckpt_path best --input new.csv --output scored.csv

  --input PATH          a CSV, Parquet, Arrow or NumPy file, a folder of such
                        parts, or a folder of images
  --output FILE         the table to write: .csv, .parquet or .arrow
  --append_columns      keep the input's columns, after the others
  --key COLUMN          identifies rows (default: the id column of training if
                        there is one, else the row's number)
  --delimiter ';'       of CSV (default: that of training)
  --alpha X             alarm if p is at most this, instead of the threshold
  --explain K           the top K reasons for each score: column, what it
                        adds, how rare that is
  --heatmaps FOLDER     a PNG file per alarm: where in the image its score
                        comes from
  --device auto|cpu|cuda:0
  --ckpt_path, --fdr and --runs as above; --experiment NAME says whose best
                        or last run is meant"""
}
REST = """\
--print_config shows every key with its value, as a configuration file.
--help=all lists every option; --model.help VAE and --data.help MNIST list the
arguments of a class."""


def page(args: list[str]) -> str | None:
    """What answers this command line; None if it does not ask for help, or the command's own parser knows best."""
    command = args[0] if args else None
    if command is None or not any(arg in ("-h", "--help") for arg in args):
        return None
    if command in ("-h", "--help"):
        lines = (f"  {name:<12}{what}" for name, what in {**COMMANDS, **STUDIES}.items())
        return OVERVIEW.format(program=PROGRAM, commands="\n".join(lines))
    if command == "fit":
        return FIT.format(program=PROGRAM, rest=REST)
    if command in WHAT:
        more = MORE.get(command, "").format(program=PROGRAM)
        return EVALUATE.format(program=PROGRAM, command=command, what=WHAT[command], more=more, rest=REST)
    return None


def reference() -> str:
    """All pages as Markdown: docs/reference/commands.md."""
    parts = [f"## {name}\n\n```text\n{page([name, '--help'])}```\n" for name in COMMANDS]
    return "\n".join(["# Commands\n", f"```text\n{page(['--help'])}```\n", *parts])


if __name__ == "__main__":
    print(reference(), end="")
