"""What is wrong with a trained model: collapsed codes, a decoder that ignores them, a short training, an idle score.

Pure functions: the figures first, then what they mean in plain words, with cause and remedy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.stats import betabinom, spearmanr
from torch import Tensor

ACTIVE = 0.01  # variance of a code, from which on Burda et al. 2016 call a unit active
INERT = 1e-3  # what the KL term costs beside what the code is worth, below which it shapes nothing
Verdict = Literal["good", "note", "bad"]


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: What.
        value: What was found.
        verdict: ``good``; ``note``, worth knowing; ``bad``, a disease.
        words: What that means, with its cause.
        remedy: What to do; empty where nothing need be done.
    """

    name: str
    value: str
    verdict: Verdict
    words: str
    remedy: str = ""


# The figures


def active_units(mu: Tensor) -> Tensor:
    """Which latent units vary with x: Cov_x(E[z | x]) > 0.01, posterior means (N, d) → bool (d,).

    Burda, Grosse and Salakhutdinov 2016, "Importance Weighted Autoencoders", section 5.2.
    """
    return mu.var(0, correction=0) > ACTIVE


def shuffle_gap(model: Any, x: Tensor) -> float:
    """By how much codes of other samples make reconstructions worse, as a share of what they come to: in [0, 1].

    1 − Σ‖x − x̂(z)‖² / Σ‖x − x̂(z of another sample)‖²; 0 where the decoder does not use z. x (N, *input_shape).
    """
    z = model.encode(x)
    own, others = (
        (x - model.likelihood.mean(model.decode(code))).square().sum().item() for code in (z, z.roll(1, dims=0))
    )
    return 1 - own / others if others > 0 else 0.0


def variance_at_bound(model: Any, x: Tensor) -> float | None:
    """The share of learned log-variances at their lower bound; None where none is learned. x (N, *input_shape)."""
    likelihood = model.likelihood
    bound = getattr(likelihood, "min_logvar", None)
    if bound is None or not hasattr(likelihood, "logvar") or isinstance(likelihood.variance, (int, float)):
        return None
    return float((likelihood.logvar(model.decode(model.encode(x))) <= bound).float().mean())


def fall(objective: Sequence[float]) -> float:
    """The share of all that a validation loss has fallen by that fell in the last tenth of its epochs: in [0, 1].

    0 for fewer than five, where it did not fall at all, or where its smallest value is older than that.
    """
    values = np.minimum.accumulate(np.asarray(objective, dtype=float))
    if len(values) < 5 or not values[0] > values[-1]:
        return 0.0
    late = max(1, len(values) // 10)
    return float((values[-1 - late] - values[-1]) / (values[0] - values[-1]))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, of two scores (N,) of the same samples; 0 where one is constant."""
    found = float(spearmanr(a, b).statistic)
    return 0.0 if math.isnan(found) else found


# What they mean


def of_codes(model: Any, x: Tensor) -> list[Finding]:
    """On latent units, KL and the decoder, for prepared normal samples (N, *input_shape)."""
    mu, logvar = model.posterior(x) if hasattr(model, "posterior") else (model.encode(x), None)
    active, found = active_units(mu), []
    used, d = int(active.sum()), len(active)
    what = f"{used} of {d} latent units active"
    if not used:
        cause = "the posterior has collapsed: the code says nothing of the sample"
        remedy = "lower model.init_args.beta, or raise it slowly: beta: {class_path: Linear, init_args: {epochs: 20}}"
        found.append(Finding("latent units", what, "bad", cause, remedy))
    else:
        spare = f"; latent_dim = {used} would do" if used < d else ""
        found.append(Finding("latent units", what, "note" if used < d / 2 else "good", f"their means vary{spare}"))
    if logvar is not None:
        found.append(_of_kl(model, x, model.kl_terms(mu, logvar).mean(0)))
    gap = shuffle_gap(model, x)
    what = f"reconstructions are {100 * gap:.3g} % better than with another sample's code"
    if gap < 0.02:
        words, remedy = (
            "the decoder does not use the code",
            "lower beta; see whether the decoder's input is cut off",
        )
        found.append(Finding("decoder", what, "bad", words, remedy))
    else:
        found.append(Finding("decoder", what, "good", "it uses the code"))
    bound = variance_at_bound(model, x)
    if bound is not None:
        what, remedy = f"{100 * bound:.3g} % at the lower bound", "lower min_logvar, or leave constant columns out"
        words = "where features have no noise the density is what the bound makes it" if bound else "none is held up"
        found.append(Finding("log-variance", what, "bad" if bound > 0.1 else "good", words, remedy if bound else ""))
    return found


def _of_kl(model: Any, x: Tensor, units: Tensor) -> Finding:
    kl = units.sort(descending=True).values
    listed = ", ".join(f"{value:.2g}" for value in kl[:8].tolist()) + (", …" if len(kl) > 8 else "")
    what = f"{kl.sum():.3g} nats: {listed}"
    if kl.sum() < 0.01:
        return Finding("KL by unit", what, "bad", "the posterior is the prior whatever the sample", "lower beta")
    z = model.encode(x)
    own, others = (model.likelihood.log_prob(model.decode(code), x).mean() for code in (z, z.roll(1, dims=0)))
    if (share := float(model.final_beta * kl.sum() / (own - others).clamp_min(1e-9))) < INERT:
        words = f"the KL term is inert: β·KL is {100 * share:.1g} % of the nats that the code is worth to the decoder"
        return Finding("KL by unit", what, "note", words, "raise beta, if scores use KL or you draw samples")
    return Finding("KL by unit", what, "good", "between collapse and no effect")


def of_training(objective: Sequence[float]) -> list[Finding]:
    """On the length of the training, by the validation loss of each epoch."""
    if len(objective) < 5:
        return []
    share, best = fall(objective), int(np.argmin(objective)) + 1
    what = f"{100 * share:.3g} % of the fall in the last tenth of {len(objective)} epochs"
    if share > 0.02:
        return [Finding("training", what, "bad", "validation is still falling: stopped too early", "train longer")]
    if best < len(objective) / 3:
        words = f"validation was best in epoch {best} and has not fallen since: the rest was for nothing"
        return [Finding("training", what, "note", words, "train shorter, or with a smaller learning rate")]
    return [Finding("training", what, "good", "validation has settled")]


def of_scores(score: np.ndarray, norm: np.ndarray, fresh: np.ndarray, label: np.ndarray, split: str) -> list[Finding]:
    """On whether a score tells more than ‖x‖ and than an untrained net's: each (N,), and labels (N,)."""
    if len(np.unique(label)) < 2:
        rho = rank_correlation(score, norm)
        what = f"rank correlation {rho:.3f}"
        if rho > 0.98:
            return [Finding("against ‖x‖", what, "bad", "the score is the norm in other words", "train longer")]
        return [Finding("against ‖x‖", what, "good", "no anomalies to measure with")]
    from sklearn.metrics import roc_auc_score  # half a second of every start, that most runs need not take

    own, found = roc_auc_score(label, score), []
    others = {"against ‖x‖": (norm, "the norm"), "against an untrained net": (fresh, "an untrained net")}
    for name, (other, called) in others.items():
        auroc = roc_auc_score(label, other)
        what = f"AUROC {own:.3f} and {auroc:.3f} ({split})"
        if own <= auroc + 0.005:
            words, remedy = f"scores are no better than those of {called}", "another score, or a model that fits better"
            found.append(Finding(name, what, "bad", words, remedy))
        elif own <= auroc + 0.02:
            words, remedy = f"scores are hardly better than those of {called}", "another score; or the task is easy"
            found.append(Finding(name, what, "note", words, remedy))
        else:
            found.append(Finding(name, what, "good", f"scores are better than those of {called}"))
    return found


def of_loss(trained: float, untrained: float) -> Finding:
    """On whether training has lowered −log p(x | z) of normal validation samples, in nats."""
    what = f"{trained:.4g} nats, untrained {untrained:.4g}"
    if trained > untrained - 0.05 * abs(untrained):
        words = "the net reconstructs like an untrained one"
        return Finding("loss", what, "bad", words, "train it: more epochs, another learning rate, less beta")
    return Finding("loss", what, "good", "training has lowered −log p(x | z)")


def of_alarms(model: Any, alarms: np.ndarray) -> list[Finding]:
    """On whether normal test samples raise alarms, bool (m,), as rarely as promised."""
    threshold = model.detector.threshold
    k = threshold.rank(threshold.samples)
    if not threshold.reachable:
        return [Finding("threshold", "out of reach", "bad", threshold.describe(), "more calibration samples")]
    if k is None or not len(alarms):
        return []
    law = betabinom(len(alarms), k, threshold.samples + 1 - k)
    low, high = (law.ppf(q) / len(alarms) for q in (0.005, 0.995))
    what = f"{100 * alarms.mean():.3g} % of {len(alarms):,} normal test samples"
    if low <= alarms.mean() <= high:
        return [Finding("false alarms", what, "good", f"promised {100 * low:.2g}–{100 * high:.2g} % (99 %)")]
    words = f"promised {100 * low:.2g}–{100 * high:.2g} % (99 %): test samples are not drawn as the calibration's are"
    return [Finding("false alarms", what, "bad", words, "look for what changed between the two; calibrate anew")]


def of_seeds(correlation: float, other: str) -> Finding:
    """On how far another seed agrees."""
    what = f"rank correlation {correlation:.3f} with {other}"
    if correlation < 0.9:
        words, remedy = "another seed ranks samples otherwise", "average the scores of several seeds; train longer"
        return Finding("two seeds", what, "bad", words, remedy)
    return Finding("two seeds", what, "good", "another seed ranks samples alike")
