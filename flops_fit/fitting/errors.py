"""The refusal of a fit: a reason and what to do about it, never a number."""

from __future__ import annotations

from flops_fit.errors import UserError


class FitError(UserError):
    """Nothing trustworthy can be fitted: `reason` says what was found, `next_step` what to do."""

    def __init__(self, reason: str, next_step: str) -> None:
        super().__init__(f"{reason}: {next_step}")
        self.reason = reason
        self.next_step = next_step
