"""The refusal of a fit: a reason and what to do about it, never a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flops_fit.errors import UserError


class FitError(UserError):
    """Nothing trustworthy can be fitted: `reason` says what was found, `next_step` what to do."""

    def __init__(self, reason: str, next_step: str) -> None:
        super().__init__(f"{reason}: {next_step}")
        self.reason = reason
        self.next_step = next_step

    @property
    def in_short(self) -> str:
        """For a line that others follow."""
        return str(self)


class TooFewBracketed(FitError):
    """Budgets without a minimum, each with its trouble in `next_step`; short without these."""

    @property
    def in_short(self) -> str:
        return self.reason


class NoLawFits(FitError):
    """Every method refused; `refusals` by method."""

    def __init__(self, refusals: Mapping[str, FitError]) -> None:
        reasons = "; ".join(f"{method}: {error}" for method, error in refusals.items())
        super().__init__("no law fits", reasons)
        self.refusals = refusals

    @property
    def in_short(self) -> str:
        return "; ".join(dict.fromkeys(self._reasons()))

    def _reasons(self) -> Iterator[str]:
        """Of all methods, those of a method made of several too."""
        for error in self.refusals.values():
            if isinstance(error, NoLawFits):
                yield from error._reasons()
            else:
                yield error.in_short
