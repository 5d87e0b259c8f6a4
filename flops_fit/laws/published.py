"""Published laws by name, to set beside one's own.

Numbers are those that each source prints; where it prints exponents alone, the line runs through
the optima that it tabulates (named at each). C = 6ND unless said. Left out: Gadre et al. 2024
(arXiv 2403.08540), whose coefficients we have not at hand; the losses of Kaplan et al. and of
nanochat, whose data nobody else measures on. Where the numbers were read: Porian et al. and
Gemstones in the result tables of their repositories, nanochat in its log, the others in the text of
their papers, but for the budgets of Besiroglu et al. (those of the points that they fit) and the
third digits of Llama 3.
"""

from __future__ import annotations

from math import exp

from flops_fit.errors import ConfigError
from flops_fit.laws.law import LossSurface, PowerLaw
from flops_fit.laws.publication import (
    Exponent,
    Publication,
    PublishedLaw,
    PublishedOptima,
    PublishedSurface,
    Trained,
)
from flops_fit.settings.sweep import FLOPS_PER_PARAM_PER_TOKEN
from flops_fit.signatures import did_you_mean

PETAFLOP_DAY = 8.64e19
"""FLOPs of 1e15 FLOP/s over a day."""

NATS = "nats per token"

ALL_PARAMS = "all parameters, embeddings included"
HEAD_COUNTED = "all parameters with the output head, without the input embedding"

HOFFMANN_RUNS = Trained(budgets=(6e18, 3e21), num_params=(7e7, 1.6e10))
"""Budgets are those of approach 2; all three have the 400 runs of 70M to 16B parameters."""

MASSIVE_TEXT = "MassiveText"

HOFFMANN_TABLE_3 = {  # N: FLOPs
    4e8: 1.92e19, 1e9: 1.21e20, 1e10: 1.23e22, 6.7e10: 5.76e23,
    1.75e11: 3.85e24, 2.8e11: 9.90e24, 5.2e11: 3.43e25, 1e12: 1.27e26,
}  # fmt: skip
HOFFMANN_TABLE_A3 = {  # of approach 2
    4e8: 1.84e19, 1e9: 1.20e20, 1e10: 1.32e22, 6.7e10: 6.88e23,
    1.75e11: 4.54e24, 2.8e11: 1.18e25, 5.2e11: 4.19e25, 1e12: 1.59e26,
}  # fmt: skip

NANOCHAT_FLOPS = (1e18, 2.15e18, 4.64e18, 1e19)
NANOCHAT_N = (110678115, 167797457, 250650865, 381758347)
NANOCHAT_D = (1241505403, 1785336422, 2642234152, 3806871243)


def published_laws() -> tuple[PublishedLaw, ...]:
    """All of them, in the order of their years."""
    return _ALL


def published_names() -> tuple[str, ...]:
    """The first name of each."""
    return tuple(law.publication.name for law in _ALL)


def is_published(name: str) -> bool:
    return name.casefold() in _BY_NAME


def published_law(name: str) -> PublishedLaw:
    """The law of this name: `published_law("chinchilla").N_opt(1e21)` parameters at 1e21 FLOPs.

    It answers N_opt and D_opt (parameters and tokens at C FLOPs), a `PublishedSurface` also
    loss_opt and the loss of any (N, D); its `publication` says what it stands on. "chinchilla" is
    approach 3 of Hoffmann et al. 2022. Raises `ConfigError` for a name that is none.
    """
    if not is_published(name):
        guess = did_you_mean(name.casefold(), [*_BY_NAME])
        raise ConfigError(f"no published law is called {name!r}: {guess}{list_of_names()}")
    return _BY_NAME[name.casefold()]


def list_of_names() -> str:
    """Every law with its other names, for messages."""
    shown = (
        f"{law.publication.name}"
        + (f" ({', '.join(law.publication.aliases)})" if law.publication.aliases else "")
        for law in _ALL
    )
    return f"there are {', '.join(shown)}"


def by_6nd(publication: Publication, N: PowerLaw) -> PublishedOptima:
    """N_opt as given, and D_opt = C / 6N."""
    return PublishedOptima(publication, N, beside(N))


def beside(one: PowerLaw) -> PowerLaw:
    """D_opt = C / 6N of a law of N_opt, or N_opt of a law of D_opt."""
    return PowerLaw(1 / (FLOPS_PER_PARAM_PER_TOKEN * one.coefficient), 1 - one.exponent)


def through_table(flops_of: dict[float, float]) -> PowerLaw:
    """The line through tabulated optima, N: FLOPs."""
    return PowerLaw.through([*flops_of.values()], [*flops_of])


def in_logs(ln_E: float, ln_A: float, ln_B: float, alpha: float, beta: float) -> LossSurface:
    return LossSurface(exp(ln_E), exp(ln_A), exp(ln_B), alpha, beta)


def _hoffmann(approach: int, names: tuple[str, ...], exponent: Exponent, note: str) -> Publication:
    return Publication(
        name=f"hoffmann-2022-{approach}",
        aliases=names,
        source=f"Hoffmann et al. 2022 (arXiv 2203.15556), approach {approach}",
        counts=ALL_PARAMS,
        data=MASSIVE_TEXT,
        exponent=exponent,
        trained=HOFFMANN_RUNS,
        loss_unit=NATS if approach == 3 else None,
        note=note,
    )


_LINE_NOTE = "it prints exponents alone: the line through the optima of its table {}"

_KAPLAN = by_6nd(
    Publication(
        name="kaplan-2020",
        aliases=("kaplan",),
        source="Kaplan et al. 2020 (arXiv 2001.08361)",
        counts="parameters without embeddings",
        data="WebText2",
        exponent=Exponent(0.73),
        trained=Trained(num_params=(768, 1.5e9)),
        note="C is its C_min, the compute at a batch far below the critical one",
    ),
    PowerLaw(1.3e9 / PETAFLOP_DAY**0.73, 0.73),
)

_HOFFMANN_1 = by_6nd(
    _hoffmann(
        1,
        ("chinchilla-1",),
        Exponent(0.50, (0.488, 0.502), 80),
        _LINE_NOTE.format("3"),
    ),
    through_table(HOFFMANN_TABLE_3),
)

_HOFFMANN_2 = by_6nd(
    _hoffmann(
        2,
        ("chinchilla-2",),
        Exponent(0.49, (0.462, 0.534), 80),
        _LINE_NOTE.format("A3"),
    ),
    through_table(HOFFMANN_TABLE_A3),
)

_HOFFMANN_3 = PublishedSurface(
    _hoffmann(
        3,
        ("chinchilla", "chinchilla-3", "hoffmann", "hoffmann-2022"),
        Exponent(0.46, (0.454, 0.455), 80),
        "unrounded, from its TeX source; Besiroglu et al. 2024 find that this fit did not converge "
        "and that its interval is too narrow: besiroglu-2024 is their refit",
    ),
    in_logs(0.5267228, 6.0073404, 6.0179186, 0.33917084, 0.2849083),
)

_HOFFMANN_ROUNDED = PublishedSurface(
    Publication(
        name="hoffmann-2022-3-rounded",
        aliases=("chinchilla-rounded",),
        source="Hoffmann et al. 2022 (arXiv 2203.15556), approach 3 as printed",
        counts=ALL_PARAMS,
        data=MASSIVE_TEXT,
        exponent=Exponent(0.46, (0.454, 0.455), 80),
        trained=HOFFMANN_RUNS,
        loss_unit=NATS,
        note="the two digits that are quoted most: at 1e21 FLOPs N is 18% smaller and the loss "
        "0.03 higher than unrounded",
    ),
    LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
)

_MUENNIGHOFF = PublishedSurface(
    Publication(
        name="muennighoff-2023",
        aliases=("muennighoff",),
        source="Muennighoff et al. 2023 (arXiv 2305.16264), one epoch, alpha = beta",
        counts=ALL_PARAMS,
        data="C4",
        exponent=Exponent(0.5),
        trained=Trained(num_params=(7e6, 8.7e9)),
        loss_unit=NATS,
        note="its law of unrepeated data, without the terms for repetition",
    ),
    in_logs(0.6254804, 6.255414, 7.3049974, 0.3526596, 0.3526596),
)

_BESIROGLU = PublishedSurface(
    Publication(
        name="besiroglu-2024",
        aliases=("besiroglu", "chinchilla-refit"),
        source="Besiroglu et al. 2024 (arXiv 2404.10102), approach 3 fitted again to points read "
        "off a figure of Hoffmann et al.",
        counts=ALL_PARAMS,
        data=MASSIVE_TEXT,
        exponent=Exponent(0.513, (0.493, 0.533), 68),
        trained=Trained(budgets=(1.4e18, 1.3e22), num_params=(5.7e7, 1.6e10)),
        loss_unit=NATS,
        note="standard errors: E 0.03, A 124.6, B 1293, alpha 0.02, beta 0.02",
    ),
    LossSurface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
)

_DEEPSEEK = by_6nd(
    Publication(
        name="deepseek-2024",
        aliases=("deepseek",),
        source="DeepSeek-AI 2024 (arXiv 2401.02954), approach 2, current data",
        counts="M/6, its non-embedding FLOPs per token (attention included) over 6",
        data="its own data",
        exponent=Exponent(0.5243),
        trained=Trained(budgets=(1e17, 3e20)),
        note="exponents 0.450 on its early data, 0.578 on OpenWebText2",
    ),
    PowerLaw(0.1715 / FLOPS_PER_PARAM_PER_TOKEN, 0.5243),
)

_PORIAN = by_6nd(
    Publication(
        name="porian-2024",
        aliases=("porian",),
        source="Porian et al. 2024 (arXiv 2406.19146), tuned, constant learning rate",
        counts=HEAD_COUNTED,
        data="RefinedWeb",
        exponent=Exponent(0.497, (0.491, 0.505), 95),
        trained=Trained(budgets=(1.25e16, 2.56e19)),
        note="exponents 0.835 set up as Kaplan et al., 0.571 with a cosine to each run's end",
    ),
    PowerLaw(0.11892648397493802, 0.49689507817885203),
)

_LLAMA_3 = PublishedOptima(
    Publication(
        name="llama-3-2024",
        aliases=("llama-3", "llama3"),
        source="Llama team 2024 (arXiv 2407.21783), approach 2",
        counts="parameters, whether with embeddings is not said",
        data="its own data",
        exponent=Exponent(0.463),
        trained=Trained(budgets=(6e18, 1e22), num_params=(4e7, 1.6e10)),
        note="it prints 0.29 C^0.53 for D_opt, which is 10.5T tokens at 3.8e25 FLOPs where it "
        "says 16.55T; with the third digits 0.299 and 0.537 it is 16.3T. N_opt here is C / 6D",
    ),
    beside(PowerLaw(0.299, 0.537)),
    PowerLaw(0.299, 0.537),
)

_GEMSTONES = PublishedSurface(
    Publication(
        name="gemstones-2025",
        aliases=("gemstones",),
        source="McLeish et al. 2025 (arXiv 2502.06857), approach 3",
        counts=ALL_PARAMS,
        data="Dolma",
        exponent=Exponent(0.697),
        trained=Trained(num_params=(5e7, 2e9)),
        loss_unit=NATS,
        note="fitted to checkpoints from 100B tokens on, far beyond its own optima for these sizes",
    ),
    in_logs(0.6681624725, 4.9008415415, 12.850969215, 0.2591125694, 0.5972679073),
)

_NANOCHAT = PublishedOptima(
    Publication(
        name="nanochat-2026",
        aliases=("nanochat",),
        source="Karpathy, nanochat, dev/LOG.md of January 2026, approach 2",
        counts=HEAD_COUNTED,
        data="FineWeb-Edu",
        exponent=Exponent(0.54),
        trained=Trained(budgets=(1e18, 1e19)),
        note="lines through its four optima; its FLOPs are counted, not 6ND; exponents 0.37 if "
        "all parameters count, 0.70 if only the matrices of the blocks do",
    ),
    PowerLaw.through(NANOCHAT_FLOPS, NANOCHAT_N),
    PowerLaw.through(NANOCHAT_FLOPS, NANOCHAT_D),
)

_ALL: tuple[PublishedLaw, ...] = (
    _KAPLAN,
    _HOFFMANN_1,
    _HOFFMANN_2,
    _HOFFMANN_3,
    _HOFFMANN_ROUNDED,
    _MUENNIGHOFF,
    _BESIROGLU,
    _DEEPSEEK,
    _PORIAN,
    _LLAMA_3,
    _GEMSTONES,
    _NANOCHAT,
)

_BY_NAME = {name: law for law in _ALL for name in law.publication.names}
