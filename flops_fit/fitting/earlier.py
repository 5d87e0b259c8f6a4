"""law.json of earlier versions, brought to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OF_ONE_METHOD = ("noise", "identifiable", "deltas", "influential_runs", "next_runs")
"""Diagnostics of version 1 that were of one method, without saying so."""

LOSS_FACTOR, FARTHEST = 1.03, 30.0
"""What the reach of the loss means in version 2, and how far it is followed."""

IN_ITS_SECTION = ("start_agreement", "promised_decrease", "at_bounds")
"""Diagnostics of version 1 that stand in the section of that method too."""


def one_level_of_two_methods(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Version 1 to 2: its diagnostics had the methods' names in their keys, and two methods.

    The bias of one was known if the other was exact; all that is of one method was of the other.
    """
    old = data["diagnostics"]
    biased, exact = _in_keys(old["without_edges"])
    return {
        **data,
        "schema_version": 2,
        "diagnostics": {
            **_of_all_methods(old, biased, exact),
            "loss_reach": _loss_reach(data["predictions"], data["answer"]),
            "methods": {} if data[exact]["refusal"] else {exact: _of_one_method(old, exact)},
        },
    }


def _in_keys(part: Mapping[str, Any]) -> dict[str, float | None]:
    """Method -> exponent, from keys such as <method>_a."""
    return {key.removesuffix("_a"): a for key, a in part.items() if key.endswith("_a")}


def _of_all_methods(old: Mapping[str, Any], biased: str, exact: str) -> dict[str, Any]:
    moved = {*OF_ONE_METHOD, *IN_ITS_SECTION}
    renamed = {"exponents_agree", "bias_explains", f"{biased}_bias"}
    kept = {key: value for key, value in old.items() if key not in moved | renamed}
    return {
        **kept,
        "why": "",
        "advice": [],
        "agreements": _agreements(old, biased, exact),
        "without_budget": [_without(part) for part in old["without_budget"]],
        "without_edges": _without(old["without_edges"]),
        "biases": _biases(old[f"{biased}_bias"], biased, exact),
    }


def _loss_reach(predictions: Sequence[Mapping[str, Any]], answer: str) -> float | None:
    """By the predictions that were stored, which stand at 1, 10, 100 and 1000 times the largest."""
    reach = None
    beyond = [p for p in predictions if p["method"] == answer and p["extrapolation"] >= 1]
    for prediction in sorted(beyond, key=lambda p: float(p["extrapolation"])):
        low, high = prediction["intervals"].get("loss", {}).get("80", (1.0, float("inf")))
        if high / low > LOSS_FACTOR**2:
            break
        reach = min(float(prediction["extrapolation"]), FARTHEST)
    return reach


def _agreements(old: Mapping[str, Any], biased: str, exact: str) -> list[dict[str, Any]]:
    if old["exponents_agree"] is None:
        return []
    explains = old["bias_explains"]
    return [
        {
            "first": biased,
            "second": exact,
            "agree": old["exponents_agree"],
            "biased": None if explains is None else biased,
            "agree_less_bias": explains,
        }
    ]


def _without(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"left_out": part["left_out"], "exponents": _in_keys(part)}


def _biases(bias: Mapping[str, Any] | None, biased: str, exact: str) -> list[dict[str, Any]]:
    return [] if bias is None else [{"method": biased, "if_exact": exact, **bias}]


def _of_one_method(old: Mapping[str, Any], method: str) -> dict[str, Any]:
    influential = [
        {"id": run["id"], "a": run[f"{method}_a"], "standard_errors": run["standard_errors"]}
        for run in old["influential_runs"]
    ]
    return {**{key: old[key] for key in OF_ONE_METHOD}, "influential_runs": influential}
