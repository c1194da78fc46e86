"""The one error a user causes."""


class InputError(ValueError):
    """Wrong input: the message is one line that names what is wrong and what would fit.

    The command line prints it and exits with code 2; every other exception is a failure.
    """
