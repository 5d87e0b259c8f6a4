"""The errors that a user can mend. Each says what was got, what was expected and what to do."""


class UserError(ValueError):
    """Something in the command, the configs or the files; shown without a traceback."""


class PlanError(UserError):
    """The sweep that was asked for can't be planned."""


class StudyError(UserError):
    """A study folder or one of its files can't be used as it is."""


class ConfigError(UserError):
    """A model, dataset, loss or optimizer can't be built or doesn't fit the others."""


CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in b"\n\t"}
"""What terminals take for commands, or for the beginning of one."""


def printable(text: str) -> str:
    """The text without what a terminal would obey: it may come from a stranger's file."""
    return text.translate(CONTROLS)


class StudyWarning(UserWarning):
    """A file of a study is not used, or not as it was written; the work goes on without it."""
