"""Numbers as people read them: few digits, a letter for thousands and more, ranges in one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite


def short_number(value: float) -> str:
    """A count as people say it: 950, 1.2M, 70B."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def short_flops(flops: float) -> str:
    """FLOPs with three digits as they are typed: 3e11, 1.5e20."""
    mantissa, exponent = f"{flops:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def significant(value: float, digits: int) -> str:
    """A number with so many digits as it is typed: 0.1293, 6296, 1.267e9."""
    return f"{value:.{digits}g}".replace("e+0", "e").replace("e+", "e")


def short_loss(loss: float) -> str:
    """A loss with four digits, and no more than four places where these show three: 2.330, 0.1058,
    0.0616."""
    if 0.01 <= abs(loss) < 1:
        return f"{loss:.4f}"
    return f"{loss:#.4g}".removesuffix(".") if abs(loss) >= 1 else f"{loss:.3g}"


def times(factor: float) -> str:
    """A multiple: 10x, 1.07x, 1,000x, 6e9x."""
    if factor >= 1e5:
        return f"{significant(factor, 2)}x"
    return f"{factor:,.0f}x" if factor >= 100 else f"{factor:.3g}x"


def span(low: float, high: float, shown: Callable[[float], str] = short_number) -> str:
    """A range in one piece, a letter that both ends share said once: 1.53-1.84B.

    An end that is open (0 or below, infinite) is said in words.
    """
    if not isfinite(high):
        return f"over {shown(low)}" if low > 0 else "no limit"
    if not low > 0:
        return f"under {shown(high)}"
    first, last = shown(low), shown(high)
    letter = last[-1:]
    if letter.isalpha() and first.endswith(letter):
        first = first.removesuffix(letter)
    return f"{first}-{last}"


def in_a_row(names: Sequence[str]) -> str:
    """Several in a sentence: a, b and c."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def duration(seconds: float) -> str:
    """A time as people say it."""
    for limit, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * limit:
            return f"{seconds / limit:.0f} {unit}"
    whole = max(1, round(seconds))
    return f"{whole} second" + ("" if whole == 1 else "s")
