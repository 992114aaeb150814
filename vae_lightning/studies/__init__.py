"""Many runs: sweeps, benchmarks beside older methods, and finished runs compared.

``tasks`` is the engine of sweep and benchmark: tasks claimed by a lock, resumed, their ends recorded; ``processes`` are
those that share them. Stands on ``training``; a run is what the command line's ``fit`` makes of a configuration, and
the command line's class is handed in: nothing here imports ``commands``.
"""
