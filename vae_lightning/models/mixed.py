"""The likelihood of a table's rows: numbers, categories and gaps."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detection.columns import Columns
from ..errors import UserError
from .likelihoods import LOG_2PI, Gaussian, Likelihood

NUMBER = 0.5 * (LOG_2PI + 1)  # nats that a standard normal number costs a decoder which knows nothing but its law


class Mixed(Likelihood):
    """Columns independent given the decoder's parameters; what is missing is left out of the sum.

        log p(x|z) = Σ_numbers log N(x; μ, σ²) + w Σ_categories log softmax(logits)[x] + v Σ_gaps log Bernoulli(gap)

    Rows are those of ``Columns``. A number adds nothing where its gap feature is
    1, a category nothing where none of its features is. Until it has met a ``Columns`` every feature is a number.

    A category of K + 2 codes costs up to log(K + 2) nats, a standardised number about ½ log 2πe = 1.42. With w = 1 and
    v = 1 the sum is the log-likelihood. ``balanced`` makes columns alike, w = 1.42 / log(K + 2): a category that is
    spread evenly over 100 levels then weighs as much as one number, and not as three. On the two tables of
    results/mixed.py w = 1 finds more, as do gaps that are modelled and a Gaussian beside a Student-t of 4 degrees.

    The decoder's logits are added to those of the training rows' frequencies: it learns how a row differs from them. So
    a code that no training row has is unlikely from the start, at about log 2n nats after n rows.

    Args:
        df: Degrees of freedom of a Student-t of scale σ for the numbers; None: Gaussian.
        variance: σ² of prepared numbers, as ``Gaussian`` has it.
        category_weight: w, a number of at least 0 or ``balanced``.
        gap_weight: v, of at least 0; with 0 gaps are given and not modelled.
        min_logvar: Lower bound of a learned log σ², without which the density of a noiseless column is unbounded.

    Attributes:
        start: float32 (features), what logits start from, a buffer; 0 for numbers.

    Raises:
        UserError: When an argument is none of these.
    """

    start: Tensor
    # where things are: numbers, then categories, as prepared rows have them
    order: Tensor
    weights: Tensor
    gaps: Tensor
    group: Tensor
    groups: Tensor

    def __init__(
        self,
        df: float | None = None,
        variance: float | Literal["shared", "per_feature", "predicted"] = "per_feature",
        category_weight: float | Literal["balanced"] = 1.0,
        gap_weight: float = 1.0,
        min_logvar: float = -10.0,
    ) -> None:
        super().__init__()
        if df is not None and not 0 < df < math.inf:
            raise UserError(f"Mixed: df = {df} must be positive, or None for a Gaussian")
        for key, weight in (("category_weight", category_weight), ("gap_weight", gap_weight)):
            balanced = key == "category_weight" and weight == "balanced"
            if not balanced and not (isinstance(weight, (int, float)) and 0 <= weight < math.inf):
                raise UserError(f"Mixed: {key} = {weight} must be a number of at least 0")
        self.df, self.category_weight, self.gap_weight = df, category_weight, gap_weight
        self.gaussian = Gaussian(variance, min_logvar)
        self.heads = self.gaussian.heads

    def build(self, input_shape: list[int]) -> None:
        super().build(input_shape)
        if len(input_shape) != 1:
            raise UserError(f"Mixed: samples of shape {list(input_shape)} are not rows of a table")
        self.gaussian.build(input_shape)
        self._arrange(Columns([0] * input_shape[0]))

    def adopt(self, preprocessing: Any) -> None:
        if isinstance(preprocessing, Columns):
            self._arrange(preprocessing)

    def _arrange(self, rows: Columns) -> None:
        """Note where in a prepared row each column's features are."""
        columns, levels = [*rows.numbers, *rows.categories], [end - start for start, end in rows.groups]
        self.sizes = [len(rows.numbers), len(rows.gaps), sum(levels)]
        balanced = [NUMBER / math.log(n) for n in levels]
        weights = balanced if self.category_weight == "balanced" else [float(self.category_weight)] * len(levels)
        whose = torch.tensor([group for group, n in enumerate(levels) for _ in range(n)], dtype=torch.int64)
        self._note("order", torch.tensor(columns).argsort())
        self._note("weights", torch.tensor([1.0] * self.sizes[0] + weights))
        self._note("gaps", (torch.tensor(rows.gaps)[:, None] == torch.tensor(columns)).float())
        self._note("group", whose)
        self._note("groups", (whose[:, None] == torch.arange(len(levels))).float())
        start = torch.zeros(sum(self.sizes))
        if rows.fitted:
            gaps, codes = rows.shares.split(self.sizes[1:])
            start[self.sizes[0] :] = torch.cat([gaps.logit(), codes.log()])
        self.register_buffer("start", start.to(self.order.device))

    def _note(self, name: str, value: Tensor) -> None:
        device = getattr(self, name).device if hasattr(self, name) else None
        self.register_buffer(name, value.to(device), persistent=False)

    def terms(self, params: Tensor, x: Tensor) -> Tensor:
        """What each column adds to the sum: (..., heads, features), (B, features) → (..., B, columns), in nats."""
        head = self._head(params)
        (numbers, gaps, one_hot), (mu, gap_logits, logits) = x.split(self.sizes, -1), head.split(self.sizes, -1)
        logvar = self.gaussian.logvar(params).expand_as(head)[..., : self.sizes[0]]
        there = 1 - (gaps @ self.gaps)[..., : self.sizes[0]]
        density = there * (self._log_density((numbers - mu).square() * (-logvar).exp()) - 0.5 * logvar)
        shifted, log_sum = self._categories(logits)
        mass = (one_hot * shifted) @ self.groups - (one_hot @ self.groups) * log_sum
        terms = torch.cat([density, mass], -1) * self.weights
        if self.gap_weight:
            gap_terms = -F.binary_cross_entropy_with_logits(gap_logits, gaps.expand_as(gap_logits), reduction="none")
            terms = terms + self.gap_weight * gap_terms @ self.gaps
        return terms.index_select(-1, self.order)

    def _head(self, params: Tensor, index: int = 0) -> Tensor:
        return super()._head(params, index) + self.start

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return self.terms(params, x).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        """Numbers, then the probability of each gap, then those of each category's codes."""
        mu, gaps, logits = self._head(params).split(self.sizes, -1)
        shifted, log_sum = self._categories(logits)
        return torch.cat([mu, gaps.sigmoid(), (shifted - log_sum[..., self.group]).exp()], -1)

    def reconstruction(self, params: Tensor, x: Tensor) -> Tensor:
        _, gaps, one_hot = x.split(self.sizes, -1)
        numbers = (gaps @ self.gaps)[..., : self.sizes[0]] > 0
        categories = (one_hot @ self.groups)[..., self.group] == 0
        left_out = [numbers, torch.full_like(gaps, not self.gap_weight, dtype=torch.bool), categories]
        return torch.where(torch.cat(left_out, -1), x, self.mean(params))

    def _log_density(self, squares: Tensor) -> Tensor:
        """Log-density of a number that is √squares scales from the mean, for a scale of 1."""
        if self.df is None:
            return -0.5 * (squares + LOG_2PI)
        nu = self.df
        constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        return constant - (nu + 1) / 2 * (squares / nu).log1p()

    def _categories(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits less the largest of their category (..., codes), and log Σ exp of those (..., categories).

        All categories at once: one softmax for each would take most of a training step.
        """
        empty = logits.new_zeros(*logits.shape[:-1], self.groups.shape[1])
        group = self.group.expand_as(logits)
        largest = empty.scatter_reduce(-1, group, logits.detach(), "amax", include_self=False)
        shifted = logits - largest.gather(-1, group)
        return shifted, (shifted.exp() @ self.groups).log()
