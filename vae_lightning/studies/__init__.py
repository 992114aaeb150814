"""Many runs: sweeps, benchmarks beside older methods, and finished runs compared.

Stands on ``training``; a run is what the command line's ``fit`` makes of a configuration.
"""
