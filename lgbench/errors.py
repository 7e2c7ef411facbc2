"""The one exception that means: the user can fix this; print one line and exit with status 2."""


class UserError(Exception):
    """A mistake in what was asked for. It says what was asked, what is wrong, what would be right."""
