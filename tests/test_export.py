"""Every score can be exported, for batches of any size, or says in one line why not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from surface import SCORES, samples
from torch import Tensor, nn

from vae_lightning.errors import UserError
from vae_lightning.models import IWAE, VAE, Autoencoder
from vae_lightning.models.likelihoods import Bernoulli, Gaussian
from vae_lightning.models.networks import MLP, Conv
from vae_lightning.scores import (
    NAP,
    Combined,
    InputComplexity,
    LatentDensity,
    LikelihoodRegret,
    NegativeELBO,
    ReconstructionError,
    Score,
)
from vae_lightning.scores.sharing import sharing

MODELS: dict[str, Callable[[], Autoencoder]] = {
    "Autoencoder": lambda: Autoencoder([10], MLP([16, 8]), 3),
    "VAE": lambda: VAE([10], MLP([16, 8]), 3, Gaussian("predicted")),
    "IWAE": lambda: IWAE([10], MLP([16, 8]), 3, Gaussian(0.05), k=3),
    "VAE-Conv": lambda: VAE([1, 14, 14], Conv([4, 8]), 3, Bernoulli()),
}


def pairs() -> Iterator[Any]:
    """Each score with each model that has what it needs."""
    for model_name, model in MODELS.items():
        built = model()
        for name, build in SCORES.items():
            if build().export_refusal is None:
                try:
                    build().check(built)
                except UserError:
                    continue
                yield pytest.param(model, build, id=f"{name}-{model_name}")


class Scorer(nn.Module):
    """x → (scores, B), all from one view of the model."""

    def __init__(self, model: nn.Module, scores: list[Score]) -> None:
        super().__init__()
        self.model, self.scores = model, nn.ModuleList(scores)

    def forward(self, x: Tensor) -> Tensor:
        view = sharing(self.model, x)
        return torch.stack([score(view, x) for score in self.scores])


def inputs(model: Autoencoder, n: int, seed: int) -> Tensor:
    if len(model.input_shape) == 1:
        return samples(n, seed)
    return torch.rand(n, *model.input_shape, generator=torch.Generator().manual_seed(seed))


def exported(scorer: Scorer, x: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(scorer, (x,), dynamic_shapes={"x": {0: batch}}, strict=False)


@pytest.mark.parametrize(("build_model", "build"), list(pairs()))
@torch.no_grad()
def test_an_exported_score_is_the_score(build_model: Callable[[], Autoencoder], build: Callable[[], Score]) -> None:
    torch.manual_seed(0)
    model, score = build_model().eval(), build()
    score.fit(model, list(inputs(model, 200, 1).split(64)), list(inputs(model, 100, 2).split(64)))
    scorer = Scorer(model, [score])
    program = exported(scorer, inputs(model, 3, 3)).module()
    for size in (1, 2, 7, 100):
        x = inputs(model, size, size)
        found = program(x)
        torch.testing.assert_close(found, scorer(x), rtol=1e-6, atol=1e-6)
        assert torch.equal(program(x), found)


def encodings(program: torch.export.ExportedProgram) -> int:
    """How often the first layer's matrix is multiplied with."""
    return sum(
        node.target is torch.ops.aten.linear.default and node.args[1].name.endswith("encoder_0_1_weight")
        for node in program.graph.nodes
    )


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_exporting_works_in_every_mode(context: Any) -> None:
    torch.manual_seed(0)
    model = MODELS["VAE"]().eval()
    scorer, x = Scorer(model, [ReconstructionError(), NegativeELBO()]), samples(3, 1)
    with context():
        program = exported(scorer, x)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(samples(7, 2)), scorer(samples(7, 2)), rtol=1e-6, atol=1e-6)
    assert not hasattr(model, "passes")


@torch.no_grad()
def test_an_exported_graph_makes_each_pass_once() -> None:
    model = MODELS["VAE"]().eval()
    program = exported(Scorer(model, [ReconstructionError(), NegativeELBO(), ReconstructionError()]), samples(3, 1))
    assert encodings(program) == 1


class Careless(Score):
    """Writes into what it was given, and asks on with it."""

    def forward(self, model: Any, x: Tensor) -> Tensor:
        r = model.reconstruct(x)
        first = model.encode(r).sum(1)
        r.mul_(2)
        x[:, 0] = 1
        return first + model.encode(r).sum(1) + model.encode(x).sum(1)


@torch.no_grad()
def test_a_write_in_place_is_seen_in_a_graph_too() -> None:
    torch.manual_seed(0)
    model, x = MODELS["VAE"]().eval(), samples(3, 1)
    alone = torch.stack([Careless()(model, x), ReconstructionError()(model, x), Careless()(model, x)])
    scorer = Scorer(model, [Careless(), ReconstructionError(), Careless()])
    torch.testing.assert_close(exported(scorer, x).module()(x), alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("score", "why"),
    [
        (LikelihoodRegret(), "optimises a posterior for each sample"),
        (InputComplexity(), "compresses each sample"),
        (InputComplexity(compressor="zlib"), "compresses each sample"),
        (Combined([ReconstructionError(), LikelihoodRegret()]), "optimises a posterior for each sample"),
        (Combined([Combined([NAP(), InputComplexity()]), NAP()]), "compresses each sample"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_exported_says_why(score: Score, why: str) -> None:
    assert score.export_refusal is not None
    assert why in score.export_refusal
    assert "\n" not in score.export_refusal
    assert Combined([LatentDensity(), NAP()]).export_refusal is None
