"""The error for input that a user can mend."""


class InputError(ValueError):
    """A setting, a file or a data set cannot be used as given.

    The message is one sentence naming the key, the value and the mend. The command line prints
    it without a stack trace.
    """
