"""Exact arithmetic as the tables promise it, on Python's own decimals."""

from collections.abc import Collection
from decimal import ROUND_HALF_UP, Context, Decimal

SCALE = 16
"""Digits behind the point of a decimal(38,16)."""
AVERAGE_SCALE = 20
"""Digits behind the point of an average of decimal(38,16)."""

_CONTEXT = Context(prec=100)


def number(text: str | None) -> Decimal | None:
    """The value of a source's text as decimal(38,16); every digit of it must fit."""
    if text is None:
        return None
    value = Decimal(text)
    assert fits(text), f"{text} does not fit decimal(38,16)"
    return value.quantize(Decimal(1).scaleb(-SCALE), context=_CONTEXT)


def fits(text: str) -> bool:
    """Whether decimal(38,16) holds every digit."""
    value = Decimal(text)
    scaled = value.scaleb(SCALE, context=_CONTEXT)
    return scaled == scaled.to_integral_value() and abs(scaled) < Decimal(10) ** 38


def total(values: Collection[Decimal | None]) -> Decimal | None:
    """The sum of what is not null; null when nothing is."""
    known = [value for value in values if value is not None]
    result = Decimal(0)
    for value in known:
        result = _CONTEXT.add(result, value)
    return result if known else None


def average(values: Collection[Decimal | None]) -> Decimal | None:
    """The average of what is not null, rounded half away from zero at 20 digits behind the point."""
    known = [value for value in values if value is not None]
    sum_ = total(known)
    if sum_ is None:
        return None
    quotient = _CONTEXT.divide(sum_, Decimal(len(known)))
    # 100 digits of the quotient cannot turn a value that is not a tie into one: the divisor is a small whole number.
    return quotient.quantize(Decimal(1).scaleb(-AVERAGE_SCALE), rounding=ROUND_HALF_UP, context=_CONTEXT)


def largest(values: Collection[Decimal | None]) -> Decimal | None:
    """The largest of what is not null."""
    return max((value for value in values if value is not None), default=None)
