"""What goes wrong in a command, as one clear line for a person; everything else is a bug and shows its stack."""


class Failed(Exception):
    """The base; the text is the line."""

    exit_code = 1


class StartFailed(Failed):
    """A part of the stack did not start, or what it was given does not make sense."""


class CallFailed(Failed):
    """An answer of the platform that was not hoped for, or none."""


class NotRunning(Failed):
    """The command needs the running platform."""

    exit_code = 3

    def __init__(self, line: str = "the platform is not running; start it by ./promo up") -> None:
        super().__init__(line)
