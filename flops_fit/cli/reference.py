"""`flops-fit predict law=NAME`: a published law in place of a study's; without torch or scipy."""

from __future__ import annotations

from flops_fit.cli.exit_codes import OK
from flops_fit.errors import ConfigError
from flops_fit.laws.prediction import (
    OtherSize,
    budget_for_num_params,
    budget_for_num_tokens,
    cost_of_size,
)
from flops_fit.laws.publication import (
    PublishedLaw,
    PublishedPrediction,
    PublishedSurface,
    predict_published,
)
from flops_fit.laws.published import list_of_names, published_law, published_laws
from flops_fit.report.documents import print_json
from flops_fit.report.published import laws_table, predictions_table
from flops_fit.report.screen import say, show_table
from flops_fit.settings import PredictSettings

LIST = "list"
"""The value of `law` that asks for all of them."""

NOT_YOURS = (
    "this is no law of your model and data; one of your own: flops-fit train model=.. dataset=.."
)


def predict_by_reference(name: str, settings: PredictSettings) -> int:
    """The optimum for what is asked by the published law `name`, and what that stands on."""
    if settings.study:
        raise ConfigError(
            f"study={settings.study} and law={name} are two laws: give one of them, or set them "
            f"side by side: flops-fit compare studies={settings.study},{name}"
        )
    if name == LIST:
        return show_all(as_json=settings.json)
    law = published_law(name)
    found = [predict_published(law, budget) for budget in asked_budgets(law, settings)]
    others = [other_size(law, p.budget, settings.instead) for p in found]
    if settings.json:
        shown = [
            {**p.to_json(), "instead": other and other.to_json()}
            for p, other in zip(found, others, strict=True)
        ]
        print_json({"law": law.publication.to_json(), "predictions": shown})
    else:
        show_table(predictions_table(found))
    tell(law, found, others)
    return OK


def asked_budgets(law: PublishedLaw, asked: PredictSettings) -> list[float]:
    """FLOPs, for budgets, the size or the tokens asked for. Raises `ConfigError` for none."""
    budgets = list(asked.budgets)
    if asked.num_params is not None:
        budgets.append(budget_for_num_params(law, asked.num_params))
    if asked.num_tokens is not None:
        budgets.append(budget_for_num_tokens(law, asked.num_tokens))
    if not budgets:
        raise ConfigError(
            f"law={law.publication.name} needs a target: budget=1e21 (FLOPs), num_params= or "
            "num_tokens="
        )
    return budgets


def other_size(law: PublishedLaw, budget: float, instead: float | None) -> OtherSize | None:
    """What another size costs. Raises `ConfigError` where the law knows no loss."""
    if instead is None:
        return None
    if not isinstance(law, PublishedSurface):
        raise ConfigError(
            f"{law.publication.name} knows no loss, so not what another size costs: leave instead= "
            "out, or take a law that knows one, such as chinchilla"
        )
    return cost_of_size(law, None, budget, instead)


def tell(
    law: PublishedLaw, found: list[PublishedPrediction], others: list[OtherSize | None]
) -> None:
    """What is said beside the table."""
    for prediction, other in zip(found, others, strict=True):
        if other is not None:
            from flops_fit.report.tables import cost_line  # a third of a second

            say(cost_line(other, prediction.budget))
    say(f"by {law.publication}")
    if law.publication.note:
        say(f"note: {law.publication.note}")
    say(f"note: {NOT_YOURS}")
    for prediction in found:
        if prediction.warning:
            say(f"warning: {prediction.warning}")


def show_all(*, as_json: bool) -> int:
    """Every published law by its names."""
    if as_json:
        print_json({"laws": [law.publication.to_json() for law in published_laws()]})
    else:
        show_table(laws_table(published_laws()))
        say(list_of_names())
    return OK
