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
    "benchmark": "train a configuration for each class and seed, and put its scores beside older methods",
    "compare": "put finished runs side by side: a table, ROC curves, training curves",
    "completion": "a script that completes commands and options in bash, zsh or tcsh",
    "diagnose": "what is wrong with a finished run: codes, KL, decoder, training, scores, in one table",
    "export": "a checkpoint as one ONNX or pt2 file, compared with itself",
    "report": "a finished run as one HTML file: curves, figures, samples with their reasons, the self-check",
    "score": "a folder of files through a detector, file by file, here or on a cluster",
    "serve": "a detector as a service: scores over HTTP",
    "sweep": "many runs over a grid or a search space, that survive any interruption",
}

OVERVIEW = """\
usage: {program} COMMAND [options]

Find anomalies with autoencoders and variational autoencoders.

{commands}

{program} COMMAND --help says more of each.
--verbose shows the whole traceback of an error.
"""

FIT = """\
usage: {program} fit --config FILE [options]

Train, keep the best epoch and the last, and test the kept weights once.

  {program} fit --config beta_vae
  {program} fit --config beta_vae --model.init_args.beta 0.5 --seed_everything 1
  {program} fit --config conv_vae --data FashionMNIST
  {program} fit --ckpt_path last

what to run
  --config FILE         a configuration, or the name of a shipped one such as beta_vae; of several the last wins
  --ckpt_path FILE      go on with a run: last, best, a run's last.ckpt. It brings its configuration
  --seed_everything N   of the weights, the order and the noise (default: 0)
  --model CLASS         VAE, Autoencoder, IWAE, or your own module.Class
  --model.init_args.KEY VALUE     beta, latent_dim, network, likelihood, scores, threshold, optimizer, lr_scheduler …
  --data CLASS          MNIST, FashionMNIST, Digits, SyntheticMixture, Corrupted, or your own module.Class
  --data.init_args.KEY VALUE      normal_classes, val_fraction, calibration_fraction, contamination, batch_size, seed …

how to train
  --trainer.max_epochs N, --trainer.max_steps N, --trainer.max_time DD:HH:MM:SS
  --trainer.accelerator auto|cpu|gpu, --trainer.devices N, --trainer.strategy ddp, --trainer.precision bf16-mixed
  --trainer.gradient_clip_val X, --trainer.accumulate_grad_batches N, --trainer.callbacks+=CLASS
  --trainer.fast_dev_run true     one batch of everything; writes nothing

where it goes
  --runs FOLDER         of all runs (default: lightning_logs)
  --experiment NAME     the folder within it (default: the configuration's name); each run is a version_<n> in that
  --checkpoint_every_n_steps N    save last.ckpt within epochs, too
  --test_after_fit false          leave the test out
  --pictures.every_n_epochs N     reconstructions, histograms, latent space (default: 5)

{rest}
"""

EVALUATE = """\
usage: {program} {command} --ckpt_path FILE [options]

{what}

  {program} {command} --ckpt_path best
  {program} {command} --ckpt_path lightning_logs/beta_vae/version_0/checkpoints/best.ckpt

  --ckpt_path FILE      a checkpoint; best or last: the newest run's. It brings its model and data
  --config FILE         another model or data, given by a configuration
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
Scores, p-values and decisions of a checkpoint, a row a sample: of the data set's test split, in predictions.csv of the
run's folder; or, with --input, of any file or folder, by the checkpoint alone.""",
}
MORE = {
    "predict": """
  --fdr X               bound the share of false alarms among the alarms, in (0, 1)

of a file or a folder
  {program} predict --ckpt_path best --input new.csv --output scored.parquet

  --input PATH          a CSV, Parquet, Arrow or NumPy file, a folder of such parts, or a folder of images
  --output FILE         the table to write; its name ends in .csv, .parquet or .arrow
  --append_columns      keep the input's columns, behind the others
  --key COLUMN          what tells rows apart (default: training's id column if there is one, else the row's number)
  --delimiter ';'       of CSV (default: training's)
  --alpha X             alarm where p is at most this, in place of the threshold
  --explain K           the K first reasons of each score: column, what it adds, how rare that is
  --heatmaps FOLDER     where in an image its score comes from, a PNG file for each alarm
  --device auto|cpu|cuda:0
  --ckpt_path, --fdr, --runs as above, and --experiment NAME: of whose runs best or last is"""
}
REST = """\
--print_config shows every key with its value, in the form of a configuration file; --help=all lists every option;
--model.help VAE, --data.help MNIST the arguments of a class."""


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
