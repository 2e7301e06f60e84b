"""From a notification in Ceilometer's shape to an event."""

import datetime
import logging
from pathlib import Path
from typing import Any

import pytest

from panko_ingest import resources
from panko_ingest.converter import EventConverter, EventDefinition, TraitDefinition
from panko_ingest.errors import ConvertError
from panko_ingest.storage.models import SALVAGED_KEY, Trait
from tests.unit.clock import Clock
from tests.unit.definitions import MESSAGE_ID, converter, notification, values

NUMBERED = """
- {event_type: 'compute.*', traits: {matched: {fields: payload.first}}}
- {event_type: [compute.instance.*, volume.*], traits: {matched: {fields: payload.second}}}
- {event_type: [vol*, '!volume.create.*', '!volume.delete.*'], traits: {matched: {fields: payload.third}}}
- {event_type: ['!*.start', '![cvx]*'], traits: {matched: {fields: payload.fourth}}}
"""
PAYLOAD = {"first": "1", "second": "2", "third": "3", "fourth": "4"}


@pytest.mark.parametrize(
    ("event_type", "matched"),
    [
        ("compute.node.up", "1"),
        ("compute.instance.create", "2"),
        ("volume.create.end", "2"),
        ("volume.attach.end", "3"),
        ("image.update", "4"),
        ("image.update.start", None),
        ("Compute.instance", "4"),
        ("xyz", None),
        ("network.create.\nend", "4"),
    ],
)
def test_the_last_definition_that_matches_is_used(
    tmp_path: Path, event_type: str, matched: str | None
) -> None:
    conversion = converter(tmp_path, NUMBERED)
    assert values(conversion, notification(event_type, PAYLOAD)).get("matched") == matched


def test_without_a_matching_definition_an_event_has_the_default_traits(tmp_path: Path) -> None:
    message = notification(
        "xyz", {"tenant_id": "t", "user_id": ""}, ctxt={"project_id": "p", "user_id": "u", "request_id": "r"}
    )
    assert values(converter(tmp_path, NUMBERED), message) == {
        "service": "compute.cmp001",
        "request_id": "r",
        "project_id": "t",
        "user_id": "",
        "tenant_id": "t",
    }


def test_without_a_matching_definition_no_event_is_made_when_that_is_wanted(tmp_path: Path) -> None:
    conversion = converter(tmp_path, NUMBERED, drop_unmatched=True)
    assert conversion.to_event(notification("xyz"), "info") is None
    assert conversion.to_event(notification("image.update"), "info") is not None


def test_a_definition_can_replace_the_default_traits(tmp_path: Path) -> None:
    conversion = converter(tmp_path, "- {event_type: x, traits: {service: {fields: payload.s}}}")
    assert values(conversion, notification("x", {"s": "mine"})) == {"service": "mine"}


def test_an_event_has_the_identity_of_its_notification(tmp_path: Path) -> None:
    event = converter(tmp_path, "[]").to_event(notification(), "info")
    assert event is not None
    assert event.message_id == MESSAGE_ID
    assert event.event_type == "test.event"
    assert event.generated == datetime.datetime(2026, 11, 23, 13, 16, 34, 317715)
    assert event.raw == {}


CASES = [
    ("text", "abc", "abc"),
    ("text", "", ""),
    ("text", "x" * 300, "x" * 255),
    ("text", 5, "5"),
    ("text", True, "True"),
    ("text", 0.5, "0.5"),
    ("text", {"b": [1, None], "a": "x"}, "{'b': [1, None], 'a': 'x'}"),
    ("text", [], "[]"),
    ("text", "größe\n", "größe\n"),
    ("text", None, None),
    ("int", 5, 5),
    ("int", 0, 0),
    ("int", "5", 5),
    ("int", " 7 ", 7),
    ("int", 5.9, 5),
    ("int", True, 1),
    ("int", "", None),
    ("int", None, None),
    ("int", -(2**63), -(2**63)),
    ("float", 5, 5.0),
    ("float", 0.0, 0.0),
    ("float", "5e3", 5000.0),
    ("float", "", None),
    ("datetime", "2026-11-23T13:16:34Z", datetime.datetime(2026, 11, 23, 13, 16, 34)),
    ("datetime", "", None),
]


@pytest.mark.parametrize(("type_name", "value", "expected"), CASES)
def test_values_take_the_type_of_their_trait(
    tmp_path: Path, type_name: str, value: Any, expected: Any
) -> None:
    conversion = converter(
        tmp_path, f"- {{event_type: x, traits: {{t: {{type: {type_name}, fields: payload}}}}}}"
    )
    event = conversion.to_event(notification("x", value), "info")
    assert event is not None
    made = [trait.value for trait in event.traits if trait.name == "t"]
    assert made == ([] if expected is None else [expected])
    assert [type(found) for found in made] == ([] if expected is None else [type(expected)])
    assert event.raw == {}


BAD = [
    ("int", "lots", "dropped: text is no integer"),
    ("int", {}, "dropped: an object is no integer"),
    ("int", float("inf"), "dropped: a number is no integer"),
    ("int", float("nan"), "dropped: a number is no integer"),
    ("int", 2**63, "dropped: the integer needs more than 64 bits"),
    ("int", "1" * 5000, "dropped: text is no integer"),
    ("float", "lots", "dropped: text is no number"),
    ("float", float("nan"), "dropped: the number is not finite"),
    ("float", "inf", "dropped: the number is not finite"),
    ("float", 10**400, "dropped: the number is not finite"),
    ("datetime", "soon", "dropped: text is no ISO 8601 time"),
    ("datetime", 1795439794, "dropped: a number is no ISO 8601 time"),
    ("datetime", "0001-01-01T00:00:00+14:00", "dropped: text is no ISO 8601 time"),
    ("text", "a\0b", "changed: characters that no database stores were replaced"),
    ("text", "a\ud800b", "changed: characters that no database stores were replaced"),
]


@pytest.mark.parametrize(("type_name", "value", "reason"), BAD)
def test_a_bad_trait_is_left_out_and_its_event_keeps_the_notification(
    tmp_path: Path, type_name: str, value: Any, reason: str
) -> None:
    conversion = converter(
        tmp_path,
        f"""
- event_type: x
  traits:
    t: {{type: {type_name}, fields: payload.v}}
    u: {{fields: payload.u}}
""",
    )
    message = notification("x", {"v": value, "u": "kept"}, ctxt={"auth_token": "sesame"})
    event = conversion.to_event(message, "info")
    assert event is not None
    assert Trait("u", Trait.TEXT_TYPE, "kept") in event.traits
    assert [trait.value for trait in event.traits if trait.name == "t"] == (
        ["a\ufffdb"] if type_name == "text" else []
    )
    assert event.raw == {
        **message,
        "ctxt": {"auth_token": "***"},
        SALVAGED_KEY: [{"trait": "t", "reason": reason}],
    }


def test_the_log_tells_of_a_bad_trait_once_a_minute_and_without_its_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    traits = {name: TraitDefinition(name, Trait.INT_TYPE, ["payload.secret"]) for name in ("a", "b")}
    conversion = EventConverter([EventDefinition(["x*"], traits)], clock=clock)
    with caplog.at_level(logging.WARNING):
        for event_type in ("x1", "x1", "x2"):
            conversion.to_event(notification(event_type, {"secret": "sesame"}), "info")
        assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
            "x1: trait a dropped: text is no integer",
            "x1: trait b dropped: text is no integer",
            "x2: trait a dropped: text is no integer",
            "x2: trait b dropped: text is no integer",
        ]
        clock.advance(59)
        conversion.to_event(notification("x1", {"secret": "sesame"}), "info")
        assert len(caplog.records) == 4
        clock.advance(2)
        conversion.to_event(notification("x1", {"secret": "sesame"}), "info")
        assert len(caplog.records) == 6
    assert "sesame" not in caplog.text


def metadata(**changes: Any) -> dict[str, Any]:
    return {"metadata": {"message_id": "m", "timestamp": "2026-11-23 13:16:34", **changes}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"event_type": None}, "event_type is missing"),
        ({"event_type": ""}, "event_type is empty"),
        ({"event_type": 5}, "event_type is no text"),
        ({"event_type": ["x"]}, "event_type is no text"),
        ({"event_type": "x" * 256}, "event_type has 256 characters, more than 255"),
        ({"event_type": "a\0b"}, "event_type has characters that no database stores"),
        (metadata(message_id=None), "message_id is missing"),
        (metadata(message_id=""), "message_id is empty"),
        (metadata(message_id=7), "message_id is no text"),
        (metadata(message_id="a\ud800"), "message_id has characters that no database stores"),
        (metadata(timestamp=None), "timestamp is missing"),
        (metadata(timestamp=""), "timestamp: '' is no ISO 8601 time"),
        (metadata(timestamp="soon"), "timestamp: 'soon' is no ISO 8601 time"),
        (metadata(timestamp=1795439794), "timestamp: int is no ISO 8601 time"),
        ({"metadata": None}, "the notification has no metadata"),
    ],
)
def test_without_an_identity_there_is_no_event(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConvertError, match=reason):
        converter(tmp_path, "[]").to_event({**notification(), **changes}, "info")


def test_the_chosen_priorities_keep_the_notification_without_credentials(tmp_path: Path) -> None:
    conversion = converter(tmp_path, "[]", store_raw=["Error"])
    message = notification(payload={"adminPass": "sesame", "a": 1}, ctxt={"auth_token": "t", "user": "u"})
    event = conversion.to_event(message, "error")
    assert event is not None
    assert event.raw == {
        **message,
        "payload": {"adminPass": "***", "a": 1},
        "ctxt": {"auth_token": "***", "user": "u"},
    }
    event = conversion.to_event(message, "info")
    assert event is not None
    assert event.raw == {}
    assert message["ctxt"] == {"auth_token": "t", "user": "u"}


@pytest.mark.parametrize("payload", [None, "text", 5, [], [{"a": 1}], {"a": None}, {"a": "x"}])
@pytest.mark.parametrize("ctxt", [None, [], "x", {}])
def test_a_payload_or_context_of_any_kind_does_no_harm(tmp_path: Path, payload: Any, ctxt: Any) -> None:
    conversion = converter(
        tmp_path, "- {event_type: x, traits: {t: {fields: payload.a.b}, u: {fields: 'payload[0].a'}}}"
    )
    event = conversion.to_event(notification("x", payload, ctxt=ctxt), "info")
    assert event is not None
    assert event.raw == {}


def test_the_converter_remembers_a_bounded_number_of_event_types(tmp_path: Path) -> None:
    conversion = converter(tmp_path, NUMBERED)
    for number in range(20_000):
        conversion.definition_of(f"type.{number}")
    assert len(conversion._known) < 10_000
    assert values(conversion, notification("volume.create.end", PAYLOAD))["matched"] == "2"


@pytest.mark.parametrize(
    ("event_type", "payload", "trait"),
    [
        ("audit.http.request", {"requestPath": "/v1/A?temp_url_sig=SECRET-1&x=1"}, "requestPath"),
        ("backup.create.error", {"fail_reason": "http://swift:SECRET-1@host/v1 refused"}, "fail_reason"),
        ("orchestration.stack.create.error", {"state_reason": "password: SECRET-1"}, "state_reason"),
        ("compute.instance.update", {"state_description": "{'admin_pass': 'SECRET-1'} is weak"}, None),
    ],
)
def test_a_trait_gives_away_no_credential_that_raw_hides(
    event_type: str, payload: dict[str, Any], trait: str | None
) -> None:
    shipped = EventConverter.from_file(
        str(resources.path("etc", "event_definitions.yaml")), ["info"], log=False
    )
    event = shipped.to_event(notification(event_type, payload), "info")
    assert event is not None
    assert "SECRET" not in f"{event}"
    assert trait is None or "***" in values(shipped, notification(event_type, payload))[trait]


def test_a_trait_of_any_name_gives_away_no_token_and_no_text_that_is_long(tmp_path: Path) -> None:
    conversion = converter(tmp_path, "- {event_type: x, traits: {odd: {fields: payload.odd}}}")
    for odd in ("gAAAAA" + "x" * 60, "password=SECRET " + "x" * 60):
        assert "***" in values(conversion, notification("x", {"odd": odd}))["odd"]
