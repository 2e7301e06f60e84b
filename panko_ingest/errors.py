"""The errors this project raises, told apart by what to do next.

Storage errors live in :mod:`panko_ingest.storage`, beside the interface that raises them.
"""

STAGES = ("decode", "convert", "record", "crash")
"""Where on its way a message can turn out to be a dead letter."""


class PankoIngestError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(PankoIngestError):
    """The configuration can't be used: name the option and what to change. Exit code 2."""


class DatabaseUrlError(ConfigError):
    """The URL of a database can't be used: ``fault`` says why, ``option`` where it stands."""

    def __init__(self, fault: str, option: str = "[database] connection") -> None:
        super().__init__(f"{option}: {fault}")
        self.fault = fault


class BusUrlError(ConfigError):
    """The URL of a bus can't be used: ``fault`` says why, ``option`` where it stands."""

    def __init__(self, fault: str, option: str = "transport_url") -> None:
        super().__init__(f"{option}: {fault}")
        self.fault = fault


class MessageError(PankoIngestError):
    """This one message can never become an event: dead-letter it and go on.

    ``stage`` is where it was found out, as the dead letter records it.
    """

    stage = "decode"


class DecodeError(MessageError):
    """The delivered bytes are no notification within the configured bounds."""


class ConvertError(MessageError):
    """A notification without a usable message_id, event_type or timestamp."""

    stage = "convert"


class DefinitionError(ConfigError):
    """The event definitions are wrong; the text lists every fault with line, definition and trait."""


class BrokerError(PankoIngestError):
    """The message broker can't be used now; it may come back. Exit code 3 for a command."""
