"""How often each word of a column is there."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

COUNTED = 100_000  # distinct values of a column that are counted; the rarest make room
DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?|\d\d?[./]\d\d?[./]\d{4}( \d\d:\d\d.*)?")


class Words:
    """How often each value of a column is there, in bounded memory.

    Attributes:
        counts: Of each; when there are too many, those that were there least are forgotten.
        unique: Whether none has been there twice.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.unique, self._full = True, False

    def update(self, words: Any) -> None:
        """Add a batch of text, some of it null."""
        if self._full and self.unique:
            return  # an identifier
        for pair in words.drop_null().value_counts():
            self.counts[pair["values"].as_py()] += pair["counts"].as_py()
        self.unique = self.unique and max(self.counts.values(), default=1) == 1
        if len(self.counts) > COUNTED:
            self._full = True
            self.counts = Counter(dict(self.counts.most_common(COUNTED // 2)))

    def ordered(self) -> list[str]:
        """The values, most frequent first, those that are as frequent in the order of the alphabet."""
        return sorted(self.counts, key=lambda word: (-self.counts[word], word))

    def dates(self) -> bool:
        """Whether they are days or times, as far as their form goes."""
        return all(DATE.fullmatch(word) for word in self.counts)

    def text_share(self) -> float:
        """The share of what is no number."""
        numbers = sum(count for word, count in self.counts.items() if _is_number(word))
        return 1 - numbers / sum(self.counts.values())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
