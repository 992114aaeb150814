"""A detector outside the laboratory: exported, scoring files and folders, on clusters, as a server.

Everything here calls the detector, or the one graph that was exported of it: no number is computed a second time.
Stands on ``detection`` and ``data``; knows no training and no study. ``scorer`` and what it imports do without torch,
for machines that have none, so nothing here is imported by the package itself.
"""
