"""How a model is trained: ``fit``, the Trainer, its callbacks, checkpoints, and the folder of a run.

Stands on ``models``, ``data``, ``detection`` and ``scores``; knows no command line and no study. What touches
Lightning's private parts is in ``lean``.
"""
