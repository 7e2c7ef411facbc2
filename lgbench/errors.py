"""The one exception that means: the user can fix this. Outside a cell: print one line, exit with status 2."""


class UserError(Exception):
    """A mistake in what was asked for. It says what was asked, what is wrong, what would be right."""


class CannotWrite(UserError):
    """A file of the results cannot be written: ends the run, since no other cell could keep its rows."""
