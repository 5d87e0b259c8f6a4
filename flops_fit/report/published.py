"""Tables of published laws, alone and beside a study's. Apart from the other tables, which need
scipy and so a second to begin."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from flops_fit.laws.publication import PublishedLaw, PublishedPrediction
from flops_fit.report.screen import table_of
from flops_fit.shown import short_flops, short_loss, short_number


def predictions_table(predictions: Iterable[PublishedPrediction]) -> Table:
    """Budget -> N, D, tokens per parameter, and the loss where the law knows one."""
    table = table_of("budget", "by", "N", "D", "D/N", "loss")
    for p in predictions:
        table.add_row(
            short_flops(p.budget),
            p.law,
            short_number(p.num_params),
            short_number(p.num_tokens),
            f"{p.tokens_per_param:.3g}",
            "none" if p.loss is None else short_loss(p.loss),
        )
    return table


def laws_table(laws: Iterable[PublishedLaw]) -> Table:
    """Name -> what it counts, where it was fitted, its exponent and the unit of its loss."""
    table = table_of("law", "N_opt ~ C^", "fitted at", "loss", "N counts")
    for law in laws:
        p = law.publication
        exponent, loss = f"{p.exponent.a:g}", p.loss_unit or "none"
        table.add_row(p.name, exponent, str(p.trained), loss, p.counts)
    for column in (table.columns[0], table.columns[-1]):
        column.justify = "left"
    return table
