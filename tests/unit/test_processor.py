"""Each delivery becomes an event, a dead letter, or nothing, whoever asks: daemon, convert or replay."""

import json
import zlib
from typing import cast

import pytest

from panko_ingest import dead_letter
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.converter.definitions import EventDefinition
from panko_ingest.converter.traits import TraitDefinition
from panko_ingest.delivery import Delivery, Rest
from panko_ingest.pipeline import MessageProcessor
from panko_ingest.pipeline.processor import PoisonGuard
from panko_ingest.shared_state import CRASHES_BEFORE_DEAD_LETTER, SharedState
from panko_ingest.storage.models import SALVAGED_KEY, DeadLetter, Event, Trait
from tests.bodies import notification


def delivery(event_type: object = "compute.instance.update", **fields: object) -> Delivery:
    return Delivery(json.dumps(notification(event_type, **fields)).encode(), queue="notifications.info")


@pytest.fixture
def processor() -> MessageProcessor:
    converter = EventConverter([], log=False)
    return MessageProcessor(converter, TypeFilter(["*", "!volume.*"]), max_size=10**6, max_depth=50)


def test_a_notification_becomes_an_event(processor: MessageProcessor) -> None:
    outcome = processor.process(delivery())
    assert isinstance(outcome, Event)
    assert outcome.event_type == "compute.instance.update"


def test_a_notification_of_a_type_that_is_not_wanted_becomes_nothing(processor: MessageProcessor) -> None:
    assert processor.process(delivery("volume.create.end")) is None


@pytest.mark.parametrize(
    ("bad", "stage"),
    [
        (Delivery(b"{"), "decode"),
        (delivery(timestamp="soon"), "convert"),
        (delivery(["a", "list"]), "convert"),
        (delivery(message_id=None), "convert"),
    ],
)
def test_what_can_never_be_an_event_becomes_a_dead_letter_of_the_stage_that_found_out(
    processor: MessageProcessor, bad: Delivery, stage: str
) -> None:
    outcome = processor.process(bad)
    assert isinstance(outcome, DeadLetter)
    assert outcome.stage == stage


@pytest.mark.parametrize("fault", [None, "its properties are damaged"])
def test_of_a_cut_body_no_event_is_made_and_its_dead_letter_says_how_much_is_missing(
    processor: MessageProcessor, fault: str | None
) -> None:
    cut = delivery()
    kept, cut.rest, cut.fault = len(cut.body), Rest(10**6, b"digest"), fault
    outcome = processor.process(cut)
    assert isinstance(outcome, DeadLetter)
    why = fault or f"the body has {kept + 10**6} bytes, more than max_message_size (1000000)"
    assert outcome.error == f"{why} (the body is cut: {kept} of {kept + 10**6} bytes are kept)"


def test_a_fault_of_a_plugin_costs_its_message_only(
    processor: MessageProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object) -> Event:
        raise SystemExit(3)

    with monkeypatch.context() as patch:
        patch.setattr(EventConverter, "to_event", leave)
        outcome = processor.process(delivery())
    assert isinstance(outcome, DeadLetter)
    assert (outcome.stage, outcome.error_class) == ("convert", "SystemExit")
    assert isinstance(processor.process(delivery()), Event)


def test_what_an_event_keeps_of_an_inflated_notification_is_counted_and_bounded(
    processor: MessageProcessor,
) -> None:
    plain = delivery()
    processor.process(plain)
    assert plain.bytes_held == len(plain.body)
    traits = {"when": TraitDefinition("when", Trait.DATETIME_TYPE, ["payload.when"])}
    salvaging = MessageProcessor(
        EventConverter([EventDefinition(["*"], traits)], log=False),
        TypeFilter(["*"]),
        max_size=10**7,
        max_depth=50,
    )
    for blanks, kept in ((10_000, True), (5_000_000, False)):
        bad = delivery(payload={"when": "soon", "padding": " " * blanks})
        size = len(bad.body)
        packed = Delivery(zlib.compress(bad.body), headers={"compression": "gzip"})
        event = salvaging.process(packed)
        assert isinstance(event, Event)
        assert ("payload" in event.raw) == kept
        assert event.raw[SALVAGED_KEY][0] == {"trait": "when", "reason": "dropped: text is no ISO 8601 time"}
        assert (packed.bytes_held > size) == kept


@pytest.mark.parametrize("text", ["{}", "no JSON ", '{"event_type": "a.b"}'])
@pytest.mark.parametrize("missing", [0, 4])
def test_of_a_dead_letter_all_is_counted_that_was_looked_at_decompressed(
    processor: MessageProcessor, text: str, missing: int
) -> None:
    body = (text + " " * 500_000).encode()
    packed = Delivery(zlib.compress(body)[: -missing or None], headers={"compression": "gzip"})
    assert isinstance(processor.process(packed), DeadLetter)
    assert packed.bytes_held >= len(body)


def test_the_name_of_a_publisher_counts_only_where_the_message_is_not_at_fault(
    processor: MessageProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ("compute.host1", "compute.instance.update")
    good, forged, ours = delivery(), delivery(timestamp=None), delivery()
    processor.process(good)
    processor.process(forged)
    monkeypatch.setattr(EventConverter, "to_event", lambda *_: 1 / 0)
    processor.process(ours)
    assert (good.source, forged.source, ours.source) == (name, ("", ""), name)


def test_a_message_that_killed_workers_is_not_looked_into_for_its_dead_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deadly = delivery(payload={"password": "sesame"})
    deadly.redelivered, deadly.headers = True, {"x-note": "token=sesame"}
    shared = SharedState(workers=1, buses=1)
    slot = shared.slots()[0]
    for _ in range(CRASHES_BEFORE_DEAD_LETTER):
        slot.hold(deadly.digest())
        shared.record_death(0)
    for name in ("redact", "redact_body"):
        monkeypatch.setattr(dead_letter, name, lambda *_, **__: pytest.fail("this may be what killed them"))
    guarded = MessageProcessor(
        EventConverter([]),
        TypeFilter(["*"]),
        max_size=10**6,
        max_depth=50,
        guard=PoisonGuard(shared, slot),
    )
    outcome = guarded.process(deadly)
    assert isinstance(outcome, DeadLetter)
    assert (outcome.stage, outcome.body, outcome.redacted) == ("crash", b"", True)
    assert outcome.digest == deadly.digest()
    assert f"the body of {len(deadly.body)} bytes is withheld" in outcome.error
    assert "sesame" not in str(outcome.headers)


class Cancelled(BaseException):
    """As asyncio and eventlet have them; its text can't be had either."""

    def __str__(self) -> str:
        return cast("str", None)


def test_whatever_a_plugin_raises_costs_its_message_only(
    processor: MessageProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: object) -> None:
        raise Cancelled

    monkeypatch.setattr(EventConverter, "to_event", convert)
    letter = processor.process(delivery())
    assert isinstance(letter, DeadLetter)
    assert (letter.stage, letter.error_class) == ("convert", "Cancelled")
    assert letter.error == "its text can't be had: TypeError"


def test_who_interrupts_a_command_that_converts_ends_it(
    processor: MessageProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EventConverter, "to_event", convert)
    with pytest.raises(KeyboardInterrupt):
        processor.process(delivery())
