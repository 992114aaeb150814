"""Importance weighted bounds against the linear-Gaussian model, whose log p(x) is known."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch.distributions import MultivariateNormal

from vae_lightning.data import Batch, SyntheticMixture
from vae_lightning.detection import Unchanged
from vae_lightning.errors import UserError
from vae_lightning.models import IWAE, VAE, Autoencoder
from vae_lightning.models.likelihoods import Bernoulli, Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.scores import ImportanceWeighted, NegativeELBO
from vae_lightning.training.callbacks import Evidence

D, LATENT, VARIANCE = 6, 3, 0.3


def linear(cls=IWAE, orthogonal=False, widen=2.0, **kwargs):
    """A linear decoder, and the encoder of its posterior mean with ``widen`` times the posterior's variances."""
    torch.manual_seed(0)
    model = cls([D], MLP(hidden=[]), LATENT, Gaussian(variance=VARIANCE), preprocessing=Unchanged(), **kwargs)
    decoder, encoder = model.decoder[0][0], model.encoder[0][1]
    w = torch.randn(D, LATENT)
    if orthogonal:  # the posterior is then a diagonal Gaussian, as the encoder's is
        w = torch.linalg.qr(w).Q * torch.tensor([0.5, 1.0, 2.0])
    covariance = (torch.eye(LATENT) + w.T @ w / VARIANCE).inverse()
    to_mu = covariance @ w.T / VARIANCE
    with torch.no_grad():
        decoder.weight.copy_(w)
        encoder.weight.copy_(torch.cat([to_mu, torch.zeros_like(to_mu)]))
        encoder.bias.copy_(torch.cat([-to_mu @ decoder.bias, (widen * covariance.diagonal()).log()]))
    return model.eval()


def log_evidence(model, x):
    """Log p(x) of x = W z + b + noise: N(b, W Wᵀ + σ² I)."""
    weight, bias = model.decoder[0][0].weight, model.decoder[0][0].bias
    return MultivariateNormal(bias, weight @ weight.T + VARIANCE * torch.eye(D)).log_prob(x)


def draw(model, n):
    weight, bias = model.decoder[0][0].weight, model.decoder[0][0].bias
    generator = torch.Generator().manual_seed(1)
    z, e = torch.randn(n, LATENT, generator=generator), torch.randn(n, D, generator=generator)
    return (z @ weight.T + bias + VARIANCE**0.5 * e).detach()


@torch.no_grad()
def test_bounds_rise_with_k_from_the_elbo_and_stay_below_the_evidence():
    draws, bounds = 4000, []
    x = draw(linear(), 16)
    for k in (1, 2, 5, 20, 100):
        model = linear(k=k)
        torch.manual_seed(k)
        bounds.append(-model.objective(x.repeat(draws, 1), 1.0)["loss"].view(draws, 16).double())
    means, errors = [b.mean() for b in bounds], [b.mean(1).std() / draws**0.5 for b in bounds]
    vae = linear(VAE)
    torch.manual_seed(0)
    elbo = -vae.objective(x.repeat(draws, 1), 1.0)["loss"].view(draws, 16).double()
    assert abs(elbo.mean() - means[0]) < 4 * (elbo.mean(1).std() / draws**0.5 + errors[0])
    for low, high, error in zip(means, means[1:], errors, strict=False):
        assert high - low > 4 * error
    evidence = log_evidence(vae, x).mean()
    assert means[-1] < evidence
    assert evidence - means[-1] < 0.2 * (evidence - means[0])


@torch.no_grad()
def test_the_score_converges_to_the_evidence():
    model = linear()
    x = draw(model, 50)
    gaps = [(ImportanceWeighted(k)(model, x) + log_evidence(model, x)).abs().mean() for k in (10, 1000, 100_000)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.02


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 7])
def test_under_the_exact_posterior_every_bound_is_the_evidence(k):
    model = linear(orthogonal=True, widen=1.0, k=k)
    x = draw(model, 50)
    torch.testing.assert_close(-model.objective(x, 1.0)["loss"], log_evidence(model, x), rtol=0, atol=1e-4)
    torch.testing.assert_close(-ImportanceWeighted(k)(model, x), log_evidence(model, x), rtol=0, atol=1e-4)
    torch.testing.assert_close(-NegativeELBO(100_000)(model, x), log_evidence(model, x), rtol=0, atol=0.05)


@torch.no_grad()
def test_with_one_sample_it_is_the_vae_but_for_the_kl_that_it_samples():
    iwae, vae = linear(k=1, beta=2.0), linear(VAE, beta=2.0)
    x = draw(vae, 20)
    torch.manual_seed(3)
    one = iwae.objective(x, 2.0)
    torch.manual_seed(3)
    other = vae.objective(x, 2.0)
    assert list(one) == list(other) == ["loss", "nll", "kl"]
    torch.testing.assert_close(one["nll"], other["nll"])
    torch.testing.assert_close(one["kl"], other["kl"])
    torch.manual_seed(3)
    mu, logvar = vae.posterior(x)
    z = mu + (0.5 * logvar).exp() * vae.noise(*mu.shape)
    prior, posterior = torch.distributions.Normal(0, 1), torch.distributions.Normal(mu, (0.5 * logvar).exp())
    sampled_kl = (posterior.log_prob(z) - prior.log_prob(z)).sum(1)
    torch.testing.assert_close(one["loss"], other["nll"] + 2 * sampled_kl)


def gradients(model, x, objective, draws):
    """The gradient of each of many draws: (draws, parameters)."""
    rows = []
    for _ in range(draws):
        model.zero_grad()
        objective(model, x).mean().backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return torch.stack(rows).double()


def plain_objective(model, x):
    """The bound of eq. 8 by torch.distributions, μ and σ reached in every way."""
    mu, logvar = model.posterior(x)
    q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    z = mu + (0.5 * logvar).exp() * model.noise(model.k, *mu.shape)
    log_ratio = (torch.distributions.Normal(0, 1).log_prob(z) - q.log_prob(z)).sum(-1)
    log_p = model.likelihood.log_prob(model.decode(z), x)
    return -(log_p + model.final_beta * log_ratio).logsumexp(0)


@pytest.mark.parametrize(("k", "beta"), [(1, 1.0), (4, 1.0), (1, 2.0), (4, 2.0), (4, 0.5)])
def test_its_gradient_is_the_bounds_own_with_less_noise(k, beta):
    model = linear(k=k, beta=beta)
    x = draw(model, 20).repeat(10, 1)  # a mean of ten draws costs what one does
    torch.manual_seed(0)
    ours = gradients(model, x, lambda model, x: model.objective(x, beta)["loss"], draws=150)
    plain = gradients(model, x, plain_objective, draws=150)
    error = ((ours.var(0) + plain.var(0)) / 150).sqrt()
    assert ((ours - plain).mean(0).abs() < 4.5 * error).all()
    encoder = slice(0, sum(p.numel() for p in model.encoder.parameters()))
    assert plain[:, encoder].mean(0).abs().max() > 20 * error[encoder].min()  # there is something to agree on
    if beta == 1:
        assert ours[:, encoder].var(0).sum() < 0.9 * plain[:, encoder].var(0).sum()


@pytest.mark.parametrize("k", [1, 7])
def test_its_gradient_has_no_noise_where_the_posterior_is_exact(k):
    model = linear(orthogonal=True, widen=1.0, k=k)
    ours = gradients(model, draw(model, 20), lambda model, x: model.objective(x, 1.0)["loss"], draws=20)
    assert ours[:, : sum(p.numel() for p in model.encoder.parameters())].abs().max() < 1e-4


@torch.no_grad()
def test_a_posterior_of_no_width_leaves_the_bound_finite():
    model = linear(k=3)
    model.encoder[0][1].bias[LATENT:] = -400.0  # σ = e⁻²⁰⁰: nothing can be divided by it
    assert model.objective(draw(model, 5), 1.0)["loss"].isfinite().all()


def test_gradients_reach_every_parameter():
    model = IWAE([1, 4, 4], MLP([8]), 2, Bernoulli(), k=5)
    model.objective(torch.rand(3, 1, 4, 4), 1.0)["loss"].mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@torch.no_grad()
def test_the_score_is_deterministic_and_of_each_sample_alone():
    model, score = linear(), ImportanceWeighted(k=3000)
    x = draw(model, 2000)  # so many that k is worked through in pieces; for one sample it is one piece
    together = score(model, x)
    assert torch.equal(together, score(model, x))
    torch.testing.assert_close(together[7:8], score(model, x[7:8]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "build", [lambda: linear(k=0), lambda: ImportanceWeighted(k=0), lambda: Evidence(k=0), lambda: Evidence(samples=0)]
)
def test_k_below_one_is_refused(build):
    with pytest.raises(UserError, match=r"(k|samples) = 0 must be at least 1"):
        build()


def test_evidence_of_a_test_split_is_the_known_one():
    data = SyntheticMixture(features=D, components=1, samples=600, eval_batch_size=10)
    model = linear()
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[Evidence(k=10_000)], enable_progress_bar=False)
    (metrics,) = trainer.test(model, data, verbose=False)
    x = torch.cat([model.prepared(batch.x[batch.label == 0]) for batch in data.test_dataloader()])
    nll = -log_evidence(model, x)
    assert metrics["test/nll_10000"] == pytest.approx(nll.mean().item(), abs=0.01)
    assert metrics["test/nll_10000_error"] == pytest.approx(nll.std().item() / len(nll) ** 0.5, rel=0.02)
    few = Trainer(accelerator="cpu", logger=False, callbacks=[Evidence(10_000, samples=25)], enable_progress_bar=False)
    (metrics,) = few.test(model, data, verbose=False)
    assert metrics["test/nll_10000"] == pytest.approx(nll[:25].mean().item(), abs=0.02)


@torch.no_grad()
def test_errors_of_the_evidence_average_out():
    """Between the 4 pieces of a batch, and within them: as they do with draws that are independent."""
    model = linear()
    batch, trainer = Batch(draw(model, 400), *torch.zeros(3, 400).long()), SimpleNamespace(world_size=1, global_rank=0)

    def mean(seed):
        evidence = Evidence(k=2, seed=seed)
        evidence.on_test_batch_end(trainer, model, None, batch, 0)
        return evidence.total[1] / evidence.total[0]

    def independent():
        mu, logvar = model.posterior(batch.x)
        noise = torch.randn(2, *mu.shape)
        log_p, log_ratio = model.log_weights(batch.x, mu + (0.5 * logvar).exp() * noise, noise, logvar)
        return -((log_p + log_ratio).logsumexp(0) - torch.tensor(2.0).log()).mean()

    found, truth = torch.stack([mean(s) for s in range(200)]), torch.stack([independent() for _ in range(200)])
    assert 0.75 < found.std() / truth.std() < 1.33
    assert abs(found.mean() - truth.mean()) < 4 * (found.var() + truth.var()).div(200).sqrt()


def test_evidence_is_refused_for_a_model_without_one():
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[Evidence()], fast_dev_run=True)
    with pytest.raises(UserError, match="Evidence needs a VAE, not Autoencoder"):
        trainer.test(Autoencoder([D]), SyntheticMixture(features=D))


@torch.no_grad()
def test_under_autocast_only_the_networks_are_rounded() -> None:
    """A KL of 25 nats has steps of 0.125 in bfloat16, and 784 rounded terms have more: neither may be summed there."""
    torch.manual_seed(0)
    model = IWAE([784], MLP([50]), 8, Bernoulli(), k=3)
    x = torch.rand(16, 784).round()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.decode(torch.randn(16, 8))
        log_p = model.likelihood.log_prob(logits, x)
        mu, logvar = model.posterior(x)
        terms = model.objective(x, 1.0)
    assert logits.dtype == torch.bfloat16
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert (mu.dtype, logvar.dtype) == (torch.float32, torch.float32)
    exact = torch.distributions.Bernoulli(logits=logits.double().view(16, 784)).log_prob(x.double()).sum(1)
    torch.testing.assert_close(log_p.double(), exact, rtol=1e-6, atol=0)
