"""The compiled definitions make just what jsonpath-ng makes of the same paths."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from panko_ingest import resources
from panko_ingest.converter import EventDefinition, TraitDefinition, values
from panko_ingest.converter.compiler import plain_steps
from panko_ingest.converter.definitions import load
from panko_ingest.storage.models import DEFINITION_TYPES, Trait
from tests.bodies import decode
from tests.unit.corpus import DEFINITIONS, needs_corpus, samples
from tests.unit.definitions import plainly

KEYS = ["a", "b", "c-d", "e.f", "key", "value", "0"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([2**63, 2**70, 1e300, float("inf"), float("nan"), 0.0])
    | st.sampled_from(
        ["", "a", "a.b.c", ".", "7", "1.5", "2026-11-23 13:16:34", "2026-11-23T13:16:34Z", "x" * 300]
    )
    | st.text(max_size=3)
    | st.sampled_from(["\0", "\ud800"])
)
documents = st.recursive(
    scalars,
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(KEYS), children, max_size=5)
    ),
    max_leaves=15,
)
notifications = st.fixed_dictionaries(
    {"ctxt": documents, "publisher_id": scalars, "event_type": st.just("x"), "payload": documents}
)

names = st.sampled_from([".a", ".b", ".'c-d'", '."e.f"', ".key", ".value", '["a"]', "['e.f']"])
plain_segments = names | st.integers(-3, 3).map("[{}]".format)
filters = st.builds(
    "[?{}{} {}]".format,
    st.sampled_from(["@.a", "@.key", "key"]),
    st.sampled_from([" =", " ==", " !=", " >"]),
    st.sampled_from(["'a'", "'7'", "''", "7", "-1", "1.5", "true", "false", "null"]),
)
other_segments = st.sampled_from(
    [
        "[*]",
        ".*",
        "[0:2]",
        "..a",
        ".a,b",
        ".`len`",
        ".`sub(/a/, b)`",
        ".`str()`",
        ".`parent`",
        "[?a]",
        "[?@.a > 1]",
    ]
)
splits = st.builds(
    ".`split({}, {}, {})`".format,
    st.sampled_from([".", "a", "' '"]),
    st.integers(-3, 3).map(str) | st.just("*"),
    st.integers(-1, 2),
)


@st.composite
def paths(draw: st.DrawFn) -> str:
    root = draw(
        st.sampled_from(["payload", "payload", "payload", "ctxt", "publisher_id", "$.payload", "missing"])
    )
    segments = draw(st.lists(plain_segments | plain_segments | filters | other_segments, max_size=4))
    return root + "".join(segments) + draw(st.just("") | st.just("") | splits)


def is_path(text: str) -> bool:
    try:
        TraitDefinition("t", Trait.TEXT_TYPE, [text])
    except Exception:  # noqa: BLE001
        return False
    return True


traits = st.builds(
    lambda dtype, fields: (dtype, fields),
    st.sampled_from(list(DEFINITION_TYPES.values())),
    st.lists(paths().filter(is_path), min_size=1, max_size=3),
)


def definition(described: list[tuple[int, list[str]]]) -> EventDefinition:
    made = {
        f"t{number}": TraitDefinition(f"t{number}", dtype, fields)
        for number, (dtype, fields) in enumerate(described)
    }
    return EventDefinition(["x"], made)


def both(compared: EventDefinition, notification: dict[str, Any]) -> tuple[Any, Any]:
    faults: values.Faults = []
    plain_faults: values.Faults = []
    made = compared.to_traits(notification, faults)
    plain = plainly(compared, notification, plain_faults)
    return (repr(made), faults), (repr(plain), plain_faults)


@settings(max_examples=150)
@given(st.lists(traits, min_size=1, max_size=6), st.lists(notifications, min_size=1, max_size=3))
def test_compiled_definitions_give_the_same_as_plain_ones_on_any_document(
    described: list[tuple[int, list[str]]], messages: list[dict[str, Any]]
) -> None:
    compared = definition(described)
    for message in messages:
        compiled, plain = both(compared, message)
        assert compiled == plain


@pytest.mark.parametrize("value", ["text", 5, {"a": 1}, {"0": 1}, None, [], True])
def test_an_index_finds_nothing_in_what_is_no_list_or_too_short(value: Any) -> None:
    faults: values.Faults = []
    compared = definition([(Trait.TEXT_TYPE, ["payload[0]", "payload[-1]"])])
    assert (compared.to_traits({"event_type": "x", "payload": value}, faults), faults) == ([], [])


ODD_ONES = {
    "payload.node[*].id": "n1",
    "payload.node[:].id": "n1",
    "payload.node[0:1].disk[*].id": "d1",
    "payload.node[1:].id": None,
    "payload.number[*]": "5",
    "payload.word[*]": "word",
    "payload.word[0]": None,
    "payload.word[0].`len`": None,
    "payload.node[0]": None,
    "payload.list[-3].`len`": None,
    "payload.node.*": "n1",
    "payload.node.*.id": "d1",
    "payload.list[*].id": "l1",
    "payload.list.*": None,
    "payload.list.*.id": None,
    "payload.node[?id]": None,
    "payload.node[?id = 'n1'].id": None,
    "payload.node[?(@.id == 'd1')].id": None,
    "payload.list[?id].id": "l1",
    "payload.list[?(@.of[*].id == 'x')].id": "l1",
    "payload.'a[*]b'": "odd",
}
"""Paths, and what Ceilometer (but of an index: the first letter) finds at each in the notification below."""


@pytest.mark.parametrize("path", ODD_ONES)
@pytest.mark.parametrize("plain", [True, False])
def test_what_is_no_list_is_looked_into_as_ceilometer_does(path: str, plain: bool) -> None:
    payload = {
        "node": {"id": "n1", "disk": {"id": "d1"}},
        "list": [{"id": "l1", "of": {"id": "x"}}, {"id": "l2"}],
        "number": 5,
        "word": "word",
        "a[*]b": "odd",
    }
    notification = {"event_type": "x", "payload": payload}
    before = repr(notification)
    compared = definition([(Trait.TEXT_TYPE, [path])])
    faults: values.Faults = []
    made = plainly(compared, notification, faults) if plain else compared.to_traits(notification, faults)
    assert (next((trait.value for trait in made), None), faults) == (ODD_ONES[path], [])
    assert repr(notification) == before


@needs_corpus
def test_compiled_definitions_give_the_same_as_plain_ones_on_the_corpus() -> None:
    for path in (Path(DEFINITIONS), resources.path("etc", "event_definitions.yaml")):
        compared = load(path)
        for sample in samples():
            message = decode(sample.body).message
            for candidate in compared:
                if candidate.types.match(message["event_type"]):
                    compiled, plain = both(candidate, message)
                    assert compiled == plain, sample.name


@needs_corpus
def test_every_path_of_upstreams_definitions_and_of_ours_is_compiled() -> None:
    for path in (Path(DEFINITIONS), resources.path("etc", "event_definitions.yaml")):
        left_over = {
            field
            for known in load(path)
            for trait in known.traits.values()
            for field, parsed in zip(trait.fields, trait.paths, strict=True)
            if plain_steps(parsed) is None
        }
        assert left_over == set()
