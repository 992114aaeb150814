"""One contract for every network: shapes, gradients, hidden activations; then the perceptron's own."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae_lightning.errors import UserError
from vae_lightning.models.networks import MLP, Network

# A new network costs one line here: itself, and the shape of the samples that it is for.
NETWORKS: dict[str, tuple[Network, list[int]]] = {
    "MLP": (MLP([8, 6]), [10]),
    "MLP of images": (MLP([8]), [2, 3, 4]),
    "linear": (MLP([]), [10]),
    "batch norm": (MLP([8, 6, 4], batch_norm=True), [1, 3, 3]),
    "dropout": (MLP([8, 6], dropout=0.3), [10]),
    "all": (MLP([8, 6], activation="Tanh", batch_norm=True, dropout=0.3), [10]),
}


@pytest.fixture(params=NETWORKS)
def named(request: pytest.FixtureRequest) -> tuple[Network, list[int]]:
    torch.manual_seed(0)
    return NETWORKS[request.param]


@pytest.mark.parametrize("heads", [1, 2])
def test_shapes(named: tuple[Network, list[int]], heads: int) -> None:
    network, shape = named
    assert network.encoder(shape, 6)(torch.rand(5, *shape)).shape == (5, 6)
    assert network.decoder(3, heads, shape)(torch.randn(5, 3)).shape == (5, heads, *shape)


def test_each_call_builds_a_half_of_its_own(named: tuple[Network, list[int]]) -> None:
    network, shape = named
    one, other = network.encoder(shape, 6), network.encoder(shape, 6)
    assert not set(one.parameters()) & set(other.parameters())


def test_a_gradient_reaches_every_parameter(named: tuple[Network, list[int]]) -> None:
    network, shape = named
    encoder, decoder = network.encoder(shape, 3), network.decoder(3, 2, shape)
    decoder(encoder(torch.rand(64, *shape))).square().sum().backward()
    for half in (encoder, decoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in half.parameters())
        assert any(p.grad.abs().sum() > 0 for p in half.parameters() if p.grad is not None)


def test_hidden_activations_are_those_that_the_head_sees(named: tuple[Network, list[int]]) -> None:
    network, shape = named
    for half, x in (
        (network.encoder(shape, 6).eval(), torch.rand(5, *shape)),
        (network.decoder(3, 1, shape).eval(), torch.randn(5, 3)),
    ):
        hidden = half.hidden(x)
        assert len(hidden) == len(half) - 1
        assert all(h.shape[0] == 5 and h.ndim == 2 for h in hidden)
        for i, h in enumerate(hidden):
            torch.testing.assert_close(h, half[: i + 1](x).flatten(1))  # type: ignore[operator]
        if hidden:
            inner = half[:-1](x)  # type: ignore[operator]
            torch.testing.assert_close(half[-1](inner), half(x))
            assert torch.equal(inner.flatten(1), hidden[-1])


def test_in_evaluation_a_sample_does_not_depend_on_the_others(named: tuple[Network, list[int]]) -> None:
    network, shape = named
    encoder, x = network.encoder(shape, 6), torch.rand(9, *shape)
    encoder(x)  # moves the running statistics of batch norm
    encoder.eval()
    torch.testing.assert_close(encoder(x[2:3]), encoder(x)[2:3])
    assert encoder(x[:0]).shape == (0, 6)


# The multilayer perceptron


def linears(half: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in half.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("hidden", [[], [400], [392, 196, 98]])
def test_the_decoder_mirrors_the_encoder(hidden: list[int]) -> None:
    network = MLP(hidden)
    encoder, decoder = network.encoder([1, 28, 28], 40), network.decoder(20, 2, [1, 28, 28])
    widths = [784, *hidden, 40]
    assert linears(encoder) == list(pairwise(widths))
    widths = [20, *reversed(hidden), 2 * 784]
    assert linears(decoder) == list(pairwise(widths))
    assert [h.shape[1] for h in encoder.hidden(torch.rand(2, 1, 28, 28))] == hidden
    assert [h.shape[1] for h in decoder.hidden(torch.rand(2, 20))] == hidden[::-1]


def test_the_output_is_the_textbook_formula() -> None:
    """W₂ relu(W₁ x + b₁) + b₂."""
    encoder = MLP([7]).encoder([2, 3], 4)
    w1, b1, w2, b2 = encoder.parameters()
    x = torch.rand(5, 2, 3)
    expected: Tensor = (x.flatten(1) @ w1.T + b1).clamp_min(0) @ w2.T + b2
    torch.testing.assert_close(encoder(x), expected)


def test_without_hidden_layers_it_is_affine() -> None:
    decoder = MLP([]).decoder(3, 1, [2, 2])
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(decoder(0.3 * a + 0.7 * b), 0.3 * decoder(a) + 0.7 * decoder(b))
    assert decoder.hidden(a) == []


@pytest.mark.parametrize(
    "activation", ["ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Tanh", "Softplus", "Identity"]
)
def test_every_activation_of_the_signature_is_torchs(activation: Any) -> None:
    encoder, x = MLP([6], activation=activation).encoder([4], 2), torch.randn(5, 4)
    weight, bias, *_ = encoder.parameters()
    (hidden,) = encoder.hidden(x)
    torch.testing.assert_close(hidden, getattr(nn, activation)()(x @ weight.T + bias))


def test_batch_norm_stands_before_the_activation() -> None:
    encoder = MLP([6], activation="Identity", batch_norm=True).encoder([4], 2)
    (hidden,) = encoder.hidden(torch.randn(500, 4) * 3 + 1)
    torch.testing.assert_close(hidden.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.var(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)


def test_dropout_drops_its_share_in_training_only() -> None:
    torch.manual_seed(0)
    encoder, x = MLP([50], activation="Identity", dropout=0.25).encoder([4], 2), torch.randn(400, 4)
    (trained,), (kept,) = encoder.hidden(x), encoder.eval().hidden(x)
    n, dropped = trained.numel(), trained == 0
    assert abs(float(dropped.sum()) / n - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)
    torch.testing.assert_close(trained[~dropped], kept[~dropped] / 0.75)
    assert (kept != 0).all()


def test_the_arguments_are_kept() -> None:
    hidden = [5, 3]
    network = MLP(hidden, "Tanh", True, 0.1)
    hidden.append(1)
    assert network.arguments == {"hidden": [5, 3], "activation": "Tanh", "batch_norm": True, "dropout": 0.1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": [0]}, r"hidden = \[0\]"),
        ({"hidden": [5, -1]}, r"hidden = \[5, -1\]"),
        ({"dropout": 1.0}, r"dropout = 1\.0"),
        ({"dropout": -0.1}, r"dropout = -0\.1"),
        ({"dropout": float("nan")}, "dropout = nan"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"MLP: {message}"):
        MLP(**arguments)
