"""The figures of a strategy over its repeats, and against the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.lab.figures import ClassFigures, Figures, class_figures, figures, jain
from loadtest.lab.intervals import Change, half_width, paired_change
from loadtest.lab.measurement import Measurement
from loadtest.lab.slo import Slo
from loadtest.server.strategies import BASELINE, Strategy
from loadtest.server.use import Use


@dataclass(frozen=True, slots=True)
class Result:
    """One strategy over all its measurements."""

    strategy: Strategy
    measurements: Sequence[Measurement]
    pooled: Figures
    """Of all requests of all measurements together."""
    each: Sequence[Figures]
    """Of each measurement."""
    classes: Sequence[ClassFigures]
    fairness: float | None
    """Jain's index of the classes' slowdowns: 1 if all are slowed down alike, 1/n if one of n bears everything."""
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each (code, text) was answered."""

    def interval(self, figure: str) -> float | None:
        """Half the width of the 95 % interval of a figure's mean over the repeats."""
        return half_width(self.values(figure))

    def values(self, figure: str) -> list[float]:
        """The figure of each measurement that has one."""
        found = (getattr(figures, figure) for figures in self.each)
        return [value for value in found if value is not None]

    @property
    def use(self) -> Use:
        return Use.mean([each.use for each in self.measurements])


def result(strategy: Strategy, measurements: Sequence[Measurement], slo: Slo) -> Result:
    records = [record for each in measurements for record in each.records]
    classes = class_figures(records, slo)
    slowdowns = [of.slowdown for of in classes if of.slowdown is not None]
    return Result(
        strategy=strategy,
        measurements=measurements,
        pooled=figures(records, sum(each.seconds for each in measurements), slo),
        each=[figures(each.records, each.seconds, slo) for each in measurements],
        classes=classes,
        fairness=jain(slowdowns) if slowdowns else None,
        errors=Counter(record.code_and_text for record in records if not record.ok),
    )


def baseline_of(results: Sequence[Result]) -> Result:
    """What the others are compared with: the strategy `baseline`, or else the first."""
    return next((of for of in results if of.strategy.name == BASELINE), results[0])


def change(of: Result, base: Result, figure: str) -> Change | None:
    """The figure of one strategy against that of another, round by round."""
    values, bases = (
        {
            its.repeat: value
            for its, found in zip(one.measurements, one.each, strict=True)
            if (value := getattr(found, figure)) is not None
        }
        for one in (of, base)
    )
    common = [repeat for repeat in values if repeat in bases]
    return paired_change([values[repeat] for repeat in common], [bases[repeat] for repeat in common])
