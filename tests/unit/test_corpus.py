"""All notifications of the corpus, by upstream's definitions and by ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from panko_ingest import resources
from panko_ingest.converter import EventConverter
from panko_ingest.errors import ConvertError
from panko_ingest.storage.models import SALVAGED_KEY, Event
from tests.bodies import decode
from tests.unit.corpus import CORPUS, DEFINITIONS, Sample, needs_corpus, samples

pytestmark = needs_corpus

BAD_TRAIT_ONLY = {
    # the time of the event is good and only a trait holds none: upstream loses the event, ours keeps it
    "swift/ceilo-objectstore.http.request-middleware_event.json": "eventTime",
}


def serialized(event: Event) -> dict[str, Any]:
    return {
        "message_id": event.message_id,
        "event_type": event.event_type,
        "generated": event.generated.isoformat(),
        "traits": sorted(list(trait.serialize()) for trait in event.traits),
    }


def convert(converter: EventConverter, sample: Sample) -> Event:
    notification = decode(sample.body)
    event = converter.to_event(notification.message, notification.priority)
    assert event is not None, sample.name
    return event


def test_upstreams_definitions_give_exactly_the_golden_events() -> None:
    converter = EventConverter.from_file(DEFINITIONS)
    differing = []
    for sample in samples():
        if sample.golden["result"] == "event":
            event = convert(converter, sample)
            if serialized(event) != sample.golden["event"] or event.raw:
                differing.append(sample.name)
    assert differing == []


def test_notifications_that_upstream_cannot_convert_have_no_time_or_keep_their_other_traits() -> None:
    converter = EventConverter.from_file(DEFINITIONS)
    lost = [sample for sample in samples() if sample.golden["result"] == "raises"]
    assert len(lost) == 21
    for sample in lost:
        if sample.name in BAD_TRAIT_ONLY:
            event = convert(converter, sample)
            assert [fault["trait"] for fault in event.raw[SALVAGED_KEY]] == [BAD_TRAIT_ONLY[sample.name]]
            assert len(event.traits) == 13
        else:
            with pytest.raises(ConvertError, match=r"timestamp: .* is no ISO 8601 time"):
                convert(converter, sample)


def test_our_definitions_give_at_least_the_golden_traits() -> None:
    converter = EventConverter.from_file(resources.path("etc", "event_definitions.yaml"))
    missing = {}
    for sample in samples():
        if sample.golden["result"] == "event":
            ours = serialized(convert(converter, sample))["traits"]
            absent = [trait for trait in sample.golden["event"]["traits"] if trait not in ours]
            if absent:
                missing[sample.name] = absent
    assert missing == {}


def test_our_definitions_know_every_service_of_the_corpus() -> None:
    converter = EventConverter.from_file(resources.path("etc", "event_definitions.yaml"))
    types = {sample.golden["event"]["event_type"] for sample in samples() if "event" in sample.golden}
    unknown = {name for name in types if _is_catch_all(converter, name)}
    assert unknown == {"test.create", "full.sample"}  # of Ceilometer's own tests, on no bus


def _is_catch_all(converter: EventConverter, event_type: str) -> bool:
    definition = converter.definition_of(event_type)
    return definition is None or definition.types.matches_everything


def test_the_priority_is_the_golden_one() -> None:
    for sample in samples():
        assert decode(sample.body).priority == sample.golden["priority"], sample.name


def test_an_envelope_holds_the_same_notification() -> None:
    index = json.loads((CORPUS / "wrapped" / "index.json").read_text("utf-8"))
    assert len(index) > 20
    for entry in index:
        wrapped = decode(
            Path(CORPUS, "wrapped", entry["file"]).read_bytes(),
            content_type=entry["content_type"],
            content_encoding=entry["content_encoding"],
        )
        bare = decode(Path(CORPUS, entry["of"]).read_bytes())
        assert wrapped.message == bare.message, entry["file"]
        assert wrapped.priority == bare.priority, entry["file"]
