"""A detector outside the laboratory: exported to a file; scoring in scripts, over folders, on clusters, as a server.

Everything here calls the detector, or the one graph that was exported of it: no number is computed a second time.
Stands on ``detection`` and on the readers of ``data``; knows no training and no study. ``scorer`` and all that it
imports do without torch, for machines that have none: so this file imports nothing.
"""
