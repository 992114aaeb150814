"""Conv: sizes, layers, and what it refuses."""

import pytest
import torch

from vae_lightning.errors import UserError
from vae_lightning.models import VAE
from vae_lightning.models.networks import Conv


@pytest.mark.parametrize("options", [{}, {"batch_norm": True, "residual": True, "hidden": 24}], ids=["plain", "all"])
@pytest.mark.parametrize("shape", [[1, 28, 28], [3, 32, 32], [1, 65, 33], [3, 128, 128]], ids=str)
def test_decoder_comes_back_to_the_size(shape: list[int], options: dict) -> None:
    network = Conv(channels=[4, 8, 8], **options)
    encoder, decoder = network.encoder(shape, 6), network.decoder(6, 2, shape)
    x = torch.rand(2, *shape)
    assert encoder(x).shape == (2, 6)
    assert decoder(encoder(x)).shape == (2, 2, *shape)


def test_each_stage_halves_and_every_activation_can_be_asked_for() -> None:
    network = Conv(channels=[4, 8], hidden=10)
    x = torch.rand(3, 1, 28, 28)
    hidden = network.encoder([1, 28, 28], 2).eval().hidden(x)
    assert [h.shape for h in hidden] == [(3, 4 * 14 * 14), (3, 8 * 7 * 7), (3, 10)]
    assert [h.shape[1] for h in network.decoder(2, 1, [1, 28, 28]).hidden(torch.randn(3, 2))] == [10, 392, 784]


def test_options_make_the_layers_they_name() -> None:
    def kinds(**options: bool) -> set[str]:
        network = Conv(channels=[4], activation="GELU", **options)
        halves = network.encoder([1, 8, 8], 2), network.decoder(2, 1, [1, 8, 8])
        return {type(module).__name__ for half in halves for module in half.modules()}

    assert "GELU" in kinds()
    assert not kinds() & {"BatchNorm2d", "Residual"}
    assert "BatchNorm2d" in kinds(batch_norm=True)
    assert "Residual" in kinds(residual=True)


def test_learns_to_reconstruct() -> None:
    torch.manual_seed(0)
    blobs = torch.zeros(64, 1, 16, 16)
    for i, image in enumerate(blobs):
        image[0, 2 + i % 8 : 6 + i % 8, 2 + i // 8 : 6 + i // 8] = 1.0
    model = VAE([1, 16, 16], network=Conv(channels=[8, 16]), latent_dim=4, beta=0.01)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    errors = []
    for _ in range(150):
        loss = model.objective(blobs, 0.01)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.25 * (blobs - blobs.mean(0)).square().sum((1, 2, 3)).mean()


def test_a_table_is_refused() -> None:
    with pytest.raises(UserError, match=r"\[10\] are not images .* use MLP"):
        VAE([10], network=Conv())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"channels": []}, "channels = \\[\\]"),
        ({"channels": [0]}, "channels = \\[0\\]"),
        ({"hidden": -1}, "hidden = -1"),
        ({"channels": [4] * 5}, "more stages than 8 × 8 pixels"),
    ],
)
def test_unsuitable_arguments(arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        VAE([1, 8, 8], network=Conv(**arguments))
