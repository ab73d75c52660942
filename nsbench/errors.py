"""The two ways in which nsbench says no. Both carry one sentence that names the fix."""


class Misuse(Exception):
    """The command, the configuration or an input file is wrong. Exit code 2."""


class Busy(Misuse):
    """Another process is at it."""


class RunFailed(Exception):
    """A run that was well configured could not be carried to its end. Exit code 1."""
