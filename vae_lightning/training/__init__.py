"""How a model is trained: the Trainer, its callbacks, checkpoints, and the folder of a run.

Stands on ``models`` and ``data``; knows no command line.
"""
