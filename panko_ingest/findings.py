"""What a check finds."""

from typing import NamedTuple

OK, WARNING, FAILURE = "ok", "warning", "failure"


class Finding(NamedTuple):
    """What a look at something found: ``level`` is ok, warning or failure; ``text`` says what to do."""

    level: str
    subject: str
    text: str
