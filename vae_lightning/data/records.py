"""Card payments with known anomalies: a table of skewed numbers, categories of 3 to 100 levels, gaps with a meaning.

Where the records come from is fixed; ``seed`` draws the records. So files of different seeds are of one world, and one
can be trained on and another tested with.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import write_csv

ANOMALIES = "out of range", "unusual combination", "rare category", "unusual gaps"

KINDS = "grocery", "restaurant", "fuel", "travel", "clothing", "electronics", "pharmacy", "parking"
MEDIAN = np.array([32, 45, 60, 420, 70, 180, 22, 6.0])  # of the amount, in euros
SPREAD = np.array([0.6, 0.5, 0.35, 0.8, 0.6, 0.9, 0.5, 0.4])  # of its logarithm
HOUR = np.array([17, 19.5, 13, 21, 15, 16, 11, 12.0])  # of the day, the mean
COUNTRIES = "DE", "FR", "NL", "AT", "ES", "IT", "BE", "GB", "CH", "SE", "PL", "IE"
CURRENCIES = "EUR", "GBP", "CHF", "SEK", "PLN"
CURRENCY_OF = np.array([0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0])
RATE = np.array([1, 0.86, 0.95, 11.3, 4.3])  # of a euro
ENTRIES = "chip", "contactless", "online"
RARE = {"entry": "magnetic stripe", "currency": "ISK", "kind": "casino"}  # one payment of a thousand each
MERCHANTS = 100


def records(rows: int, anomalies: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Payments as columns; the last one, ``label``, is ``normal`` or the kind of anomaly.

    ========== =========================================================================================================
    id         a number of its own
    time       when, ISO, ascending
    hour       of the day, normally distributed about what is usual for the kind
    amount     log-normal, of median and spread of the kind, in the country's currency
    items      1 + a Poisson number that grows with the logarithm of the amount
    tip        5 to 15 % of the amount in restaurants, and missing everywhere else
    distance   from home in km, log-normal; missing online
    card_days  age of the card, exponential with mean 700; missing in 4 % of all payments
    merchant   100 of them, Zipf; each has a kind and a country
    kind       of 8, and ``casino``, which is rare
    country    of 12
    currency   of 5, the country's, and ``ISK``, which is rare
    entry      ``contactless`` up to 50 euros, else ``chip``; ``online`` for half of travel and electronics; rarely
               ``magnetic stripe``
    ========== =========================================================================================================

    Anomalies, each with the same share, in records that are drawn like all others:

    - ``out of range``: the amount times 30 to 100, a distance of 20,000 to 100,000 km, 40 to 80 items, an age below 0;
    - ``unusual combination``: an amount as in another kind of shop, three spreads or more beside the own kind's, or
      another country's currency; each value is ordinary by itself;
    - ``rare category``: two rare categories at once, or a merchant that was never there;
    - ``unusual gaps``: a tip missing in a restaurant or given elsewhere, a distance missing in a shop or given online,
      and the card's age missing, all at once.

    Args:
        rows: How many.
        anomalies: Share of them that are anomalies, in [0, 1); rounded to whole rows.
        seed: Of the records.

    Raises:
        UserError: When an argument is none of these.
    """
    if rows < 1 or not 0 <= anomalies < 1:
        raise UserError(f"records: rows = {rows}, anomalies = {anomalies}: give one row or more, and a share below 1")
    rng = np.random.default_rng([2026, seed])
    table, euros = _normal(rows, rng)
    strange = np.sort(rng.permutation(rows)[: round(anomalies * rows)])
    which = rng.integers(len(ANOMALIES), size=len(strange))
    _out_of_range(table, strange[which == 0], rng)
    _combination(table, strange[which == 1], euros, rng)
    _rare(table, strange[which == 2], rng)
    _gaps(table, strange[which == 3], rng)
    table["label"] = np.full(rows, "normal", object)
    table["label"][strange] = np.array(ANOMALIES, object)[which]
    return table


def write_records(path: str | Path, rows: int = 5000, anomalies: float = 0.0, seed: int = 0) -> Path:
    """The ``records`` as a CSV file with a head; what is missing is empty. Returns the path."""
    table = records(rows, anomalies, seed)
    columns = [
        ["" if value is None or value != value else value for value in column.tolist()] for column in table.values()
    ]
    write_csv(Path(path), [list(table), *zip(*columns, strict=True)])
    return Path(path)


def _normal(rows: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns, and the amount in euros."""
    world = np.random.default_rng(2026)
    kind_of = np.append(np.arange(len(KINDS)), world.integers(len(KINDS), size=MERCHANTS - len(KINDS)))
    country_of = world.choice(len(COUNTRIES), MERCHANTS, p=_zipf(len(COUNTRIES), 1))
    merchant = rng.choice(MERCHANTS, rows, p=_zipf(MERCHANTS, 3))
    kind, country = kind_of[merchant], country_of[merchant]
    euros = MEDIAN[kind] * np.exp(SPREAD[kind] * rng.normal(size=rows))
    currency = CURRENCY_OF[country]
    online = np.isin(kind, (3, 5)) & (rng.random(rows) < 0.5)
    entry = np.where(online, 2, (euros < 50).astype(int))
    amount = np.round(euros * RATE[currency], 2)
    tip = np.where(kind == 1, np.round(amount * rng.uniform(0.05, 0.15, rows), 2), np.nan)
    days = np.where(rng.random(rows) < 0.04, np.nan, np.ceil(rng.exponential(700, rows)))
    time = np.datetime64("2026-01-01T00:00:00") + np.sort(rng.integers(180 * 86_400, size=rows))
    table = {
        "id": np.arange(1, rows + 1) + 1_000_000 * rng.integers(1, 900),
        "time": time.astype(str).astype(object),
        "hour": np.round(rng.normal(HOUR[kind], 2) % 24, 2),
        "amount": amount,
        "items": 1 + rng.poisson(np.log1p(euros / 20)),
        "tip": tip,
        "distance": np.where(online, np.nan, np.round(rng.lognormal(1.5, 1.2, rows), 1)),
        "card_days": days,
        "merchant": np.array([f"M{i:03}" for i in range(MERCHANTS)], object)[merchant],
        "kind": np.array(KINDS, object)[kind],
        "country": np.array(COUNTRIES, object)[country],
        "currency": np.array(CURRENCIES, object)[currency],
        "entry": np.array(ENTRIES, object)[entry],
    }
    for name, value in RARE.items():
        table[name][rng.random(rows) < 0.001] = value
    return table, euros


def _zipf(n: int, offset: float) -> np.ndarray:
    shares = 1 / (np.arange(n) + offset)
    return shares / shares.sum()


def _out_of_range(table: dict[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> None:
    for part, name in zip(np.array_split(rows, 4), ("amount", "distance", "items", "card_days"), strict=True):
        n = len(part)
        table[name][part] = {
            "amount": np.round(table["amount"][part] * rng.uniform(30, 100, n), 2),
            "distance": np.round(rng.uniform(20_000, 100_000, n), 1),
            "items": rng.integers(40, 80, n),
            "card_days": -np.ceil(rng.exponential(200, n)),
        }[name]


def _combination(table: dict[str, np.ndarray], rows: np.ndarray, euros: np.ndarray, rng: np.random.Generator) -> None:
    amounts, currencies = np.array_split(rows, 2)
    for row in amounts:
        own = KINDS.index(table["kind"][row]) if table["kind"][row] in KINDS else 0
        other = rng.choice(np.flatnonzero(np.abs(np.log(MEDIAN / MEDIAN[own])) > 3 * SPREAD[own]))
        typical = MEDIAN[other] * np.exp(0.2 * rng.normal())
        table["amount"][row] = round(table["amount"][row] / euros[row] * typical, 2)
    for row in currencies:
        table["currency"][row] = rng.choice([name for name in CURRENCIES if name != table["currency"][row]])


def _rare(table: dict[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> None:
    new, rare = np.array_split(rows, 2)
    table["merchant"][new] = [f"M{number}" for number in rng.integers(200, 999, len(new))]
    for row in rare:
        for name in rng.choice(list(RARE), 2, replace=False):
            table[name][row] = RARE[name]


def _gaps(table: dict[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> None:
    n = len(rows)
    table["tip"][rows] = np.where(np.isnan(table["tip"][rows]), np.round(0.1 * table["amount"][rows], 2), np.nan)
    distance = np.round(rng.lognormal(1.5, 1.2, n), 1)
    table["distance"][rows] = np.where(np.isnan(table["distance"][rows]), distance, np.nan)
    table["card_days"][rows] = np.nan
