"""The one exception that a command shows to its user without a traceback."""


class UserError(ValueError):
    """Something that the user can mend.

    The message is one line: the file, field or flag; what was found; what was wanted; the
    remedy. `train.py` and `evaluate.py` print it and exit with code 2.
    """
