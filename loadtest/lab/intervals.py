"""Means, and changes between them, with 95 % confidence intervals from repeats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# The 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom: all that scipy, tens of MB, would be needed for.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_T_INFINITE = 1.960
TELLING_PERCENT = 1000.0
"""An interval wider than this says nothing, and is not printed."""


@dataclass(frozen=True, slots=True)
class Change:
    """How much greater one figure is than another, in percent. Without repeats there are no bounds."""

    percent: float
    low: float | None = None
    high: float | None = None

    @property
    def is_real(self) -> bool | None:
        """Whether the interval leaves out "no change"; None where there is no interval."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.percent:+.1f} %"
        if self.high - self.low > TELLING_PERCENT:
            return f"{self.percent:+.1f} % (anything: too few repeats)"
        return f"{self.percent:+.1f} % ({self.low:+.1f} to {self.high:+.1f})"


def half_width(values: Sequence[float]) -> float | None:
    """The mean's 95 % confidence interval is mean ± this. None for fewer than two values."""
    if len(values) < 2:
        return None
    return _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def paired_change(values: Sequence[float], base: Sequence[float]) -> Change | None:
    """Of figures measured in the same rounds: the mean log ratio of the pairs, so that a machine's drift cancels out.

    None if a figure is 0 or there are no pairs.
    """
    pairs = list(zip(values, base, strict=False))  # an interrupted round has no pair
    if not pairs or any(value <= 0 or of <= 0 for value, of in pairs):
        return None
    logs = [math.log(value / of) for value, of in pairs]
    return _change(statistics.fmean(logs), half_width(logs))


def independent_change(values: Sequence[float], base: Sequence[float]) -> Change | None:
    """Of figures measured apart (Welch's t on logarithms). None if a figure is 0 or missing."""
    if not values or not base or min(*values, *base) <= 0:
        return None
    logs, base_logs = [[math.log(value) for value in group] for group in (values, base)]
    difference = statistics.fmean(logs) - statistics.fmean(base_logs)
    if len(logs) < 2 or len(base_logs) < 2:
        return _change(difference, None)
    shares = [statistics.variance(group) / len(group) for group in (logs, base_logs)]
    if sum(shares) == 0:
        return _change(difference, 0.0)
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(group) - 1) for share, group in zip(shares, (logs, base_logs), strict=True)
    )
    return _change(difference, _quantile(math.floor(freedom)) * math.sqrt(sum(shares)))


def _change(log_ratio: float, half: float | None) -> Change:
    if half is None:
        return Change(_percent(log_ratio))
    return Change(_percent(log_ratio), _percent(log_ratio - half), _percent(log_ratio + half))


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(min(log_ratio, 700.0))  # the bounds of two very unequal repeats can pass any float


def _quantile(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else _T_INFINITE
