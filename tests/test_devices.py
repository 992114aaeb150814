"""No tensor is made on another device than the model's, in a training step and in scoring. No GPU is needed.

Gradients on the meta device, scores on tensors that claim to be a GPU's: neither mixes with the CPU's, and neither can
tell a number, so that what asks the host for one, which a GPU would wait for, ends in an error.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from surface import SCORES
from test_models import MODELS, build
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vae_lightning.batch import Batch
from vae_lightning.detection import Columns, Images, Standardize
from vae_lightning.models import VAE, AnomalyModel
from vae_lightning.models.annealing import Linear
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP

META = torch.device("meta")


class Elsewhere(TorchDispatchMode):
    """Notes each operation whose result is not where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.device != META:
                self.wrong.append(str(func))
        return found


def on_meta(model: AnomalyModel) -> Any:
    """The model there, with preprocessing as it is after a fit."""
    model.preprocessing = Standardize()
    model.preprocessing.fit([torch.rand(20, *model.input_shape)])
    return model.to(META)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_stays_on_the_device(name: str) -> None:
    model, x = on_meta(build(name)), torch.empty(8, 10, device=META)
    with Elsewhere() as elsewhere:
        loss = model.minimised(model.objective(model.prepared(x), 1.0)["loss"])
        loss.backward()
    assert not elsewhere.wrong
    assert loss.device == META
    assert all(parameter.grad.device == META for parameter in model.parameters())


def on_cuda(model: AnomalyModel, mode: FakeTensorMode) -> AnomalyModel:
    """The model with tensors that are of a GPU by name, and have shapes instead of numbers."""

    def there(t: Tensor) -> Any:
        fake = mode.from_tensor(t.detach())
        with mode:
            return fake.to("cuda")

    for part in model._apply(there).modules():
        if isinstance(part, LightningModule):
            part._device = torch.device("cuda", 0)
    return model


def scores_on_cuda(model: Any, x: Tensor) -> None:
    model.detector.fit([x], [x[:60]])
    model.detector.calibrate(x[60:])
    mode = FakeTensorMode()
    on_cuda(model.eval(), mode)
    with mode, torch.no_grad():
        found = model.detector.graph(torch.empty(8, *x.shape[1:], device="cuda"))
    for tensor in (found.score, found.p_value, found.anomaly, *found.each.values()):
        assert tensor.device.type == "cuda"
        assert tensor.shape == (8,)


# these look at samples or steps on the host: they work there, and make a GPU wait
ON_HOST = {"InputComplexity", "LikelihoodRegret"}


@pytest.mark.filterwarnings("ignore:.*nothing raises an alarm")
@pytest.mark.parametrize("name", [name for name in SCORES if name.partition("-")[0] not in ON_HOST])
def test_a_score_stays_on_the_device(name: str, converting: None) -> None:
    torch.manual_seed(0)
    x = torch.rand(120, 10)
    model = VAE([10], MLP([8, 6]), 3, Gaussian("shared"), scores=[SCORES[name]()], preprocessing=Standardize())
    assert model.preprocessing is not None
    model.preprocessing.fit([x])
    scores_on_cuda(model, x)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_scored_on_the_device(name: str, converting: None) -> None:
    x, model = torch.rand(120, 10), build(name, preprocessing=Standardize())
    assert model.preprocessing is not None
    model.preprocessing.fit([x])
    scores_on_cuda(model, x)


@pytest.fixture
def converting() -> Iterator[None]:
    """Modules take a tensor of another kind for one of theirs."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(before)


def test_preprocessing_stays_on_the_device() -> None:
    for prepares, raw in (
        (Images(), torch.zeros(4, 1, 5, 5, dtype=torch.uint8)),
        (Columns([0, 0, 3], gaps=[1]), torch.tensor([[1.0, 2.0, 1.0], [3.0, torch.nan, 2.0]] * 5)),
        (Columns([0, 0], transform="blend"), torch.rand(30, 2)),
    ):
        prepares.fit([raw])
        prepares.to(META)
        with Elsewhere() as elsewhere:
            found = prepares(raw.to(META))
        assert not elsewhere.wrong
        assert found.device == META


def test_the_means_of_a_batch_are_kept_where_it_is() -> None:
    """A step asks the host for nothing but whether the loss is finite, now and then: see Steps.training_step."""
    model = on_meta(build("VAE, annealed, several scores"))
    with Elsewhere() as elsewhere:
        model._means["train"].update(model.objective(model.prepared(torch.empty(8, 10, device=META)), 1.0))
        total = model._means["train"].total
    assert not elsewhere.wrong
    assert total.device == META
    assert Linear(0.0, 1.0, steps=10)(5, 3) == 0.5  # β is a number of the host: no tensor


def test_a_batch_moves_as_one() -> None:
    from vae_lightning.data import NORMAL, SyntheticMixture

    data = SyntheticMixture(samples=200)
    data.setup()
    loader = data.loader("train", 32, shuffle=True)
    loader.device = META
    for batch in loader:
        assert isinstance(batch, Batch)
        assert all(column.device == META for column in batch)
    assert NORMAL == 0
