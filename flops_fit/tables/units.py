"""Units of what is counted: parameters in millions, tokens in billions, compute in GFLOPs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from flops_fit.fitting.errors import FitError
from flops_fit.tables.cells import SUPERSCRIPTS, quantity

COUNTS = ("num_params", "num_tokens", "num_params_total", "unique_tokens")
COMPUTE = ("flops", "budget")

LOSSES = ("loss", "loss_stderr")

LOSS_UNIT = re.compile(
    r"[\s_,]*[(\[]?\b(?:nats?|bits?|bpb)(?:(?:\s*/\s*|[\s_]per[\s_])\w+)?[)\]]?\s*$", re.IGNORECASE
)
"""Behind the header of a loss: (nats), [bits per token]."""

UNIT_NAMES: Mapping[str, str] = {f"{name}_unit": name for name in (*COUNTS, *COMPUTE)}
"""Names under which `columns` has units -> the columns that they are of."""

THOUSANDS: Mapping[str, float] = {
    "": 1.0,
    **dict.fromkeys(("k", "thousand", "thousands"), 1e3),
    **dict.fromkeys(("m", "mio", "mn", "mm", "mil", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "g", "bn", "bil", "bln", "billion", "billions"), 1e9),
    **dict.fromkeys(("t", "tn", "trn", "trillion", "trillions"), 1e12),
}

NOUNS = r"(?:tokens?|toks?|params?|parameters?|samples?|weights?)"

COUNT = re.compile(rf"(?:in\s+)?(?P<size>[a-z]*?)(?:[\s_-]*(?:of\s+)?{NOUNS})?")

PREFIXES: Mapping[str, float] = {
    "": 1.0,
    **dict.fromkeys(("k", "kilo"), 1e3),
    **dict.fromkeys(("m", "mega"), 1e6),
    **dict.fromkeys(("g", "b", "giga"), 1e9),
    **dict.fromkeys(("t", "tera"), 1e12),
    **dict.fromkeys(("p", "peta"), 1e15),
    **dict.fromkeys(("e", "exa"), 1e18),
    **dict.fromkeys(("z", "zetta"), 1e21),
    **dict.fromkeys(("y", "yotta"), 1e24),
}

SECONDS: Mapping[str, float] = {"day": 86400.0, "hour": 3600.0}

_PREFIX = "|".join(sorted(PREFIXES, key=len, reverse=True))

FLOPS = re.compile(rf"(?P<size>{_PREFIX})flops?")

RATE_TIME = re.compile(rf"(?P<size>{_PREFIX})f(?:lops?)?s?(?:/s)?(?P<time>day|hour)s?")
"""petaflop/s-days and its likes, without blanks and dashes."""

MAKES_NO_UNIT = 100.0
"""A number in a header up to which it counts columns rather than units."""

_LONG = r"[\W_]*s?[\W_]*(?:day|hour)s?"

COMPUTE_WORDS = re.compile(
    rf"(?:^|[\W_])((?:{_PREFIX})flops?(?:{_LONG})?|(?:{_PREFIX})f{_LONG})$", re.IGNORECASE
)
"""How a header ends that tells a unit of compute."""

PF_DAY = 1e15 * SECONDS["day"]

SHOWN_COUNTS: Mapping[float, str] = {1.0: "1", 1e3: "k", 1e6: "M", 1e9: "B", 1e12: "T"}
SHOWN_COMPUTE: Mapping[float, str] = {
    1.0: "flops",
    1e3: "kflops",
    1e6: "mflops",
    1e9: "gflops",
    1e12: "tflops",
    1e15: "pflops",
    1e18: "eflops",
    1e21: "zflops",
    PF_DAY: "pf-days",
}
"""Units as settings give them."""


def shown_units(name: str) -> Mapping[float, str]:
    """The units that are proposed for a column of ours: factor -> word."""
    return SHOWN_COMPUTE if name in COMPUTE else SHOWN_COUNTS


def factor(name: str, unit: str) -> float | None:
    """What a value of our column `name` in this unit is multiplied by; None for no unit of it."""
    text = unit.strip().strip("[]()").strip().casefold()
    number = quantity(re.sub(r"^[x×*]\s*", "", text))
    if number is not None and number.number > 0:
        inner = factor(name, number.unit) if number.unit else 1.0
        return None if inner is None else number.number * inner
    return _compute(text) if name in COMPUTE else _count(text)


def _count(text: str) -> float | None:
    found = COUNT.fullmatch(text)
    return THOUSANDS.get(found["size"]) if found else None


def _compute(text: str) -> float | None:
    plain = re.sub(r"[\s_\-·*]+", "", re.sub(r"^(in\s|flops? in\s)", "", text))
    if found := FLOPS.fullmatch(plain):
        return PREFIXES[found["size"]]
    if found := RATE_TIME.fullmatch(plain):
        return PREFIXES[found["size"]] * SECONDS[found["time"]]
    return THOUSANDS.get(plain, PREFIXES.get(plain))


def given_factor(name: str, unit: str | float) -> float:
    """That of a unit that was given as a setting. Raises `FitError` for what is none."""
    found = factor(name, str(unit))
    if found is None or not found > 0:
        raise FitError(
            f"columns.{name}_unit is {unit!r}, no unit of {name}",
            f"give one of {', '.join(shown_units(name).values())}, or a number such as 1e6",
        )
    return found


def header_unit(name: str, header: str) -> tuple[float, str] | None:
    """The unit that a header names, as a factor, with the header's rest: of "tokens (B)", 1e9 and
    "tokens"."""
    for found in (
        _in_brackets(name, header),
        _behind_a_sign(name, header),
        _in_words(name, header),
    ):
        if found is not None and found[0] != 1.0:
            return found
    return None


def without_unit(name: str, header: str) -> str:
    """The header without the unit that it names."""
    if name in LOSSES:
        return LOSS_UNIT.sub("", header)
    found = header_unit(name, header) if name in (*COUNTS, *COMPUTE) else None
    return found[1] if found else header


def _in_brackets(name: str, header: str) -> tuple[float, str] | None:
    found = re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", header)
    size = factor(name, found[1]) if found else None
    if found is None or size is None or not size > MAKES_NO_UNIT:  # a second `params (2)`
        return None
    return size, header[: found.start()]


def _behind_a_sign(name: str, header: str) -> tuple[float, str] | None:
    """tokens/1e9, params_1e6, N [x 1e6], FLOPs, e18; C in PF-days; tokens, B."""
    found = re.search(r"[\s_/,×x*]+(?:1?e|10\^?)\+?(\d+)$", header.translate(SUPERSCRIPTS))
    if found and int(found[1]) % 3 == 0 and len(found[1]) < 3:
        return float(f"1e{found[1]}"), header[: found.start()]
    found = re.search(r"(?:\bin\b|,|/)\s*([^,/]+(?:/s[^,/]*)?)$", header, re.IGNORECASE)
    size = factor(name, found[1]) if found else None
    return (size, header[: found.start()]) if found and size is not None else None


def _in_words(name: str, header: str) -> tuple[float, str] | None:
    """tokens_B, paramsM, Mtokens, total_gflops, compute_pf_days."""
    if name in COMPUTE:
        found = COMPUTE_WORDS.search(header)
        size = factor(name, re.sub(r"[\W_]", "", found[1])) if found else None
        rest = header[: found.start()] if found else ""
        return (size, rest) if size is not None else None
    if found := re.search(
        r"(?:[\W_]|(?<=params)|(?<=tokens)|(?<=[a-z](?=[KMBGT]$)))([A-Za-z]+)$", header
    ):
        size = _count(found[1].casefold())
        if size is not None and size != 1.0:
            return size, header[: found.start()]
    found = re.search(rf"(?:^|[\W_])([kmbgt])[\W_]?({NOUNS})$", header, re.IGNORECASE)
    return (THOUSANDS[found[1].casefold()], found[2]) if found else None
