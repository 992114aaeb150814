"""Objects as primitives and back: what is recorded, what is built, and what is refused."""

from __future__ import annotations

import copy
import inspect
import io
import math
import os
import pickle
import re
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import script
from torch import nn

from vae_lightning.errors import UserError
from vae_lightning.models import VAE
from vae_lightning.models.likelihoods import Bernoulli, Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.recipe import Recorded, build, class_path, describe, find, same
from vae_lightning.scores import Combined, NegativeELBO, ReconstructionError


class Thing(Recorded):
    def __init__(self, first: Any, second: Any = 2, *, third: Any = None) -> None:
        self._elsewhere = first  # and nothing under the arguments' names


class Wider(Thing):
    def __init__(self, first: Any, fourth: int = 4, **kwargs: Any) -> None:
        super().__init__(first, **kwargs)


class Silent(Thing):
    """Without a constructor of its own."""


class Positional(Recorded):
    def __init__(self, *many: Any) -> None: ...


class Plain:
    def __init__(self, x: int = 0) -> None:
        self.x = x


def arguments(thing: Recorded) -> Any:
    return describe(thing)["init_args"]


def through_a_file(value: Any) -> Any:
    """As a checkpoint holds it."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_positional_keyword_and_default_arguments() -> None:
    assert describe(Thing(1)) == {
        "class_path": f"{__name__}.Thing",
        "init_args": {"first": 1, "second": 2, "third": None},
    }
    assert arguments(Thing(1, 5, third="x")) == {"first": 1, "second": 5, "third": "x"}
    assert arguments(Thing(second=7, first=3)) == {"first": 3, "second": 7, "third": None}
    assert arguments(Wider(1, 9, second=8)) == {"first": 1, "fourth": 9, "second": 8}
    assert arguments(Silent(0, third=True)) == {"first": 0, "second": 2, "third": True}
    assert describe(Thing(1, 2), leave_out=["second"])["init_args"] == {"first": 1, "third": None}


VALUES = [
    None,
    True,
    3,
    0.1,
    -math.inf,
    "a.b",
    "",
    [],
    {},
    [1, [2, {"a": [None]}]],
    {"a": {"b": 1.5}, "c": [False]},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_primitives_come_back_as_they_were(value: Any) -> None:
    recipe = through_a_file(describe(Thing(value)))
    made = build(recipe)
    assert type(made) is Thing
    assert made._elsewhere == value
    assert describe(made) == recipe


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        (Path("a/b"), f"a{os.sep}b"),
        (np.float64(0.25), 0.25),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("word"), "word"),
    ],
    ids=repr,
)
def test_what_comes_back_as_its_plain_relative(value: Any, expected: Any) -> None:
    """A checkpoint that holds a numpy scalar can be written and never be read: float64 is a float to Python."""
    found = through_a_file(describe(Thing(value)))["init_args"]["first"]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool", ">f4"])
def test_tensors_and_arrays(dtype: str) -> None:
    array = np.array([[1, 0], [3, 4]], dtype)
    array.flags.writeable = False
    for value in (array, array[::-1], torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))):
        given = torch.as_tensor(np.ascontiguousarray(value, array.dtype.newbyteorder("=")).copy())
        made = build(through_a_file(describe(Thing([value]))))
        assert torch.equal(made._elsewhere[0], given)
        assert made._elsewhere[0].dtype == given.dtype
    parameter = nn.Parameter(torch.ones(2))
    recorded = describe(Thing(parameter))["init_args"]["first"]
    assert type(recorded) is torch.Tensor
    with torch.no_grad():
        parameter.add_(1)
    assert torch.equal(recorded, torch.ones(2))


def test_objects_within_objects() -> None:
    score = Combined([NegativeELBO(3), Combined([ReconstructionError(), NegativeELBO(seed=4)])], weights=[1.0, 2.0])
    made = build(through_a_file(describe(score)))
    assert describe(made) == describe(score)
    assert made.scores[1].scores[1].seed == 4
    nested = Thing({"deep": [Thing(Thing(5))]})
    assert build(describe(nested))._elsewhere["deep"][0]._elsewhere._elsewhere == 5


def test_a_model_is_built_as_it_was_given() -> None:
    model = VAE([4], MLP([5, 3], batch_norm=True), 2, Gaussian("per_feature"), 0.5, scores=[NegativeELBO(2)])
    made = build(through_a_file(model.recipe))
    assert made.recipe == model.recipe
    assert {key: value.shape for key, value in made.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


def test_a_list_that_is_changed_later_is_another() -> None:
    hidden, mapping = [5, 3], {"a": [1]}
    network, thing = MLP(hidden), Thing(mapping)
    hidden.append(9)
    mapping["a"].append(2)
    assert arguments(network)["hidden"] == [5, 3]
    assert arguments(thing)["first"] == {"a": [1]}
    network.hidden.append(7)
    assert arguments(network)["hidden"] == [5, 3]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_keep_the_record(copied: Any) -> None:
    for thing in (Thing([1], 5), Wider(2), Bernoulli(), Gaussian(0.5), NegativeELBO(4), MLP([3])):
        assert describe(copied(thing)) == describe(thing)
    adam = partial(torch.optim.Adam, lr=0.1)  # a lambda, the default, has no pickle
    model = VAE([4], MLP([3]), 2, scores=[NegativeELBO(2)], optimizer=adam)
    if copied is not copy.copy:
        assert copied(model).recipe == model.recipe


def test_signatures_are_those_of_the_constructors() -> None:
    """The command line and an editor read them."""
    assert list(inspect.signature(Thing).parameters) == ["first", "second", "third"]
    assert inspect.signature(Silent) == inspect.signature(Thing)
    assert list(inspect.signature(Wider).parameters) == ["first", "fourth", "kwargs"]
    assert inspect.signature(MLP).parameters["hidden"].default == [400]
    assert inspect.signature(Thing).parameters["third"].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match="missing"):
        Thing()  # type: ignore[call-arg]


def test_a_class_within_a_function() -> None:
    class Inner(Thing): ...

    recipe = describe(Inner(3))
    assert "<locals>" in recipe["class_path"]
    assert type(build(recipe)) is Inner

    first = Inner

    class Inner(Thing):  # type: ignore[no-redef]  # as in a notebook's cell that is run again
        ...

    assert type(build(recipe)) is Inner is not first


SCRIPT = """
import sys, torch
from vae_lightning.detection import Detector
from vae_lightning.models import VAE
from vae_lightning.scores import Score
from vae_lightning.data import SyntheticMixture
from vae_lightning.training.trainer import Trainer

class Mine(Score):
    def __init__(self, power):
        super().__init__()
        self.p = power
    def forward(self, model, x):
        return (x - model.reconstruct(x)).abs().pow(self.p).mean(1)

if sys.argv[1] == "write":
    model, data = VAE([10], scores=[Mine(3)]), SyntheticMixture(samples=200)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(model, data)
    model.detector.save(sys.argv[2])
print(Detector.load(sys.argv[2]).score(torch.ones(2, 10)).tolist())
"""


def test_a_class_of_a_script_is_found_by_that_script_and_asked_for_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    said = [script(tmp_path, "script.py", what, "file.ckpt") for what in ("write", "read")]
    assert [one.returncode for one in said] == [0, 0], said
    assert said[0].stdout == said[1].stdout
    from vae_lightning.detection import Detector

    with pytest.raises(UserError, match=r"__main__\.Mine is not a class .*: import the module .*, or name it in trust"):
        Detector.load(tmp_path / "file.ckpt")


def test_trust_names_classes_beyond_the_families() -> None:
    recipe = {"class_path": class_path(Plain), "init_args": {"x": 3}}
    with pytest.raises(UserError, match="Plain is not a class of vae_lightning"):
        build(recipe)
    assert build(recipe, trust=[Plain]).x == 3
    assert build([recipe], trust=[Plain])[0].x == 3
    assert find(class_path(Thing)) is Thing


@pytest.mark.parametrize(
    ("value", "brief"),
    [
        (lambda x: x, "<function"),
        (os.path.join, "<function join"),
        (math, "<module 'math'"),
        (Plain(), "Plain object"),
        (Plain, "<class"),
        (nn.Linear(2, 2), "Linear("),
        (b"bytes", "b'bytes'"),
        ({1: 2}, "{1: 2}"),
        ({"class_path": "os.system"}, "{'class_path'"),
        ({1, 2}, "{1, 2}"),
        (1j, "1j"),
        (np.array([object()]), "array("),
        (np.array(["a"]), "array("),
        (np.datetime64("2020-01-01"), "datetime"),
        (Enum("Colour", "RED").RED, "<Colour.RED"),  # type: ignore[attr-defined]
        (np.longdouble(1), ""),
    ],
    ids=lambda value: re.sub(r" at 0x.*", "", str(value))[:30],
)
def test_what_no_file_can_hold_is_refused_in_one_line(value: Any, brief: str) -> None:
    for given, place in (
        (value, "Thing.first"),
        ([1, value], r"Thing.first\[1\]"),
        ({"a": value}, r"Thing.first\['a'\]"),
    ):
        with pytest.raises(UserError, match=rf"^{place} = .*cannot be kept in a checkpoint: give numbers") as error:
            describe(Thing(given))
        assert brief in str(error.value)
        assert "\n" not in str(error.value)


def test_a_model_refuses_at_once_and_not_when_it_is_saved() -> None:
    class Odd(VAE):
        def __init__(self, input_shape: list[int], function: Any = None, **kwargs: Any) -> None:
            super().__init__(input_shape, **kwargs)

    with pytest.raises(UserError, match=r"Odd.function = <function .* cannot be kept"):
        Odd([4], function=lambda x: x)
    Odd([4], optimizer=lambda params: torch.optim.SGD(params, 0.1))  # of training alone
    with pytest.raises(UserError, match=r"Positional: \*many cannot be recorded: give its arguments names"):
        describe(Positional(1))
    assert arguments(Positional()) == {}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"class_path": "os.system"}, "os.system is not a class"),
        ({"class_path": "vae_lightning.models.autoencoder.copy"}, "is not a class"),
        ({"class_path": "vae_lightning.recipe.build"}, "is not a class"),
        ({"class_path": "vae_lightning.models.networks.Network"}, "is not a class"),  # abstract
        ({"class_path": "elsewhere.VAE"}, "is not a class"),
        ({"class_path": None}, "is not a class"),
        ({"class_path": ["a"]}, "is not a class"),
        ({"class_path": f"{__name__}.Thing", "init_args": [1]}, "is not a recipe"),
        ({"class_path": f"{__name__}.Thing", "more": 1}, "is not a recipe"),
        ({"class_path": f"{__name__}.Thing", "init_args": {"x": 1}}, "Thing: .*unexpected keyword argument 'x'"),
        ({"class_path": f"{__name__}.Thing"}, "Thing: .*first"),
    ],
)
def test_a_recipe_that_cannot_be_built_says_so(recipe: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"here: .*{said}"):
        build(recipe, where="here")


def test_a_class_that_has_moved_is_found_by_its_name() -> None:
    made = build({"class_path": "vae_lightning.networks.MLP", "init_args": {"hidden": [2]}})
    assert type(made) is MLP


def test_recipes_are_compared_by_their_numbers() -> None:
    a, b = (describe(Thing([torch.ones(3), {"x": 1}])) for _ in range(2))
    assert same(a, b)
    for other in (torch.zeros(3), torch.ones(2), torch.ones(3, dtype=torch.int64), [1, 1, 1], None):
        assert not same(a, describe(Thing([other, {"x": 1}])))
    assert not same(a, describe(Thing([torch.ones(3)])))
    assert not same({"a": 1}, {"b": 1})
