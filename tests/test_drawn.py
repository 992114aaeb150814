"""What the pictures show: means with bands, a common axis, rankings, shares; read off the figures themselves."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from vae_lightning.studies.benchmark_pictures import draw
from vae_lightning.studies.benchmark_report import Row
from vae_lightning.studies.curves import roc, training
from vae_lightning.studies.sweep.pictures import _brief
from vae_lightning.training.callbacks.latent import confusion


def texts(axis):
    return [text.get_text() for text in axis.texts]


def run(values):
    return {"train/loss": dict(enumerate(values, start=1))}


def test_several_seeds_are_a_mean_and_a_band_of_a_standard_deviation():
    axis = training({"a": [run([4.0, 2.0]), run([6.0, 4.0])], "b": [run([9.0, 8.0])]}).axes[0]
    mean, single = axis.lines
    assert list(mean.get_ydata()) == [5.0, 3.0]
    assert list(single.get_ydata()) == [9.0, 8.0]
    (band,) = [c for c in axis.collections if isinstance(c, PolyCollection)]
    edge = band.get_paths()[0].vertices
    for epoch, (low, high) in {1: (5 - 2**0.5, 5 + 2**0.5), 2: (3 - 2**0.5, 3 + 2**0.5)}.items():
        at = edge[edge[:, 0] == epoch, 1]
        assert (at.min(), at.max()) == (pytest.approx(low), pytest.approx(high))
    assert axis.get_xlabel() == "epoch"
    assert "lower is better" in axis.get_ylabel()


def test_runs_of_other_lengths_end_at_the_same_place():
    axis = training({"short": [run([3.0, 2.0])], "long": [run([4.0, 3.0, 2.0, 1.0])]}).axes[0]
    assert [list(line.get_xdata()) for line in axis.lines] == [[0.5, 1.0], [0.25, 0.5, 0.75, 1.0]]
    assert axis.get_xlabel() == "share of the training (2 to 4 epochs)"


def test_the_mean_of_equal_curves_is_that_curve():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.3, 0.9])
    axis = roc({"a": [(labels, scores)] * 2}, {}).axes[0]
    mean = axis.lines[0]
    assert np.interp(0.25, mean.get_xdata(), mean.get_ydata()) == pytest.approx(0.5)
    assert np.interp(0.75, mean.get_xdata(), mean.get_ydata()) == pytest.approx(1.0)


def test_a_benchmark_is_ranked_by_the_mean_over_classes():
    aurocs = {"good": [[0.9, 0.8], [0.92, 0.82]], "bad": [[0.95, 0.5]], "partly": [[0.99]]}
    found = [
        Row("MNIST", "one_class", c, method, seed, auroc)
        for method, seeds in aurocs.items()
        for seed, classes in enumerate(seeds)
        for c, auroc in enumerate(classes)
    ]
    heat, ranking = draw(found, "MNIST").axes
    assert [label.get_text() for label in heat.get_yticklabels()] == ["good", "bad", "partly"]
    assert texts(heat) == ["0.910", "0.810", "0.950", "0.500", "0.990", "–"]
    assert [text.strip() for text in texts(ranking)] == ["0.860", "0.725"], "a method that lacks a class has no mean"


def test_confusion_is_in_shares_of_the_true_class():
    axis = Figure().subplots()
    target, given = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, -1])
    confusion(axis, target, given, ["zero", "one"])
    assert texts(axis) == ["75%", "25%", "50%", "50%"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["zero", "one", "none"]


def test_long_values_are_said_once():
    values = ["0.5", "Linear(start=0, stop=1)", "Cyclical(cycles=4, stop=1)", "Linear(start=0, stop=4)"]
    shown, note = _brief(values)
    assert shown == ["0.5", "Linear b", "Cyclical", "Linear d"]
    assert note == f"Linear b: {values[1]}; Cyclical: {values[2]}; Linear d: {values[3]}"
    assert _brief(["0.5", "ReLU"]) == (["0.5", "ReLU"], "")
