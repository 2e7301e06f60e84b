"""Reading event definitions: what is accepted, what is refused, and how that is said."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from panko_ingest import config_reader, resources
from panko_ingest.cli import check
from panko_ingest.converter import EventConverter, definitions
from panko_ingest.errors import DefinitionError
from tests.unit.definitions import converter, notification, values


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(DefinitionError) as refused:
        converter(folder, text)
    return str(refused.value).replace(f"{folder}/event_definitions.yaml", "F").splitlines()


def test_every_fault_is_told_at_once_with_its_line_definition_and_trait(tmp_path: Path) -> None:
    text = """\
- event_type: compute.*
  traits:
    good: {fields: payload.a}
    no_fields: {type: int}
    bad_type:
      type: integer
      fields: payload.a
    bad_path: {fields: 'payload.['}
- traits: {}
- event_type: volume.*
- event_type: 5
  traits: []
- event_type: x
  traits:
    t: {}
    u: {fields: [payload.a, 5]}
    v: {fields: payload.a, plugin: no-such}
    w: {fields: payload.a, plugin: {parameters: {}}}
    x: {fields: payload.a, plugin: {name: map}}
    y: {fields: payload.a, plugin: {name: split, parameters: [x]}}
- text
"""
    told = faults(tmp_path, text)
    assert [fault.split(": ", 1)[0] for fault in told] == [
        "F:4", "F:5", "F:8", "F:9", "F:10", "F:11", "F:12", "F:15", "F:16", "F:17", "F:18", "F:19", "F:20",
        "F",
    ]  # fmt: skip
    assert told[0] == (
        "F:4: definition 1 (compute.*): trait no_fields: fields must be a JSONPath or a list of them"
    )
    assert "trait bad_type: type 'integer' is none of text, int, float, datetime" in told[1]
    assert "trait bad_path: 'payload.[' is no JSONPath" in told[2]
    assert told[3] == "F:9: definition 2: event_type is missing"
    assert told[4] == "F:10: definition 3 (volume.*): traits is missing; {} means the default traits only"
    assert "event_type must be text or a list of text" in told[5]
    assert "traits must be an object" in told[6]
    assert "trait t: fields must be a JSONPath or a list of them" in told[7]
    assert "no plugin 'no-such'; installed: bitfield, map, split, timedelta" in told[9]
    assert "plugin must be a name, or have a name and parameters" in told[10]
    assert "plugin map refused its parameters" in told[11]
    assert "parameters of plugin split must be an object" in told[12]
    assert told[13] == "F: definition 6: must have event_type and traits"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be a list of event definitions"),
        ("a: 1", "must be a list of event definitions"),
        ("- [", "yaml:1: no YAML"),
        ("- event_type: !foo.*\n  traits: {}", r'no YAML: .*write "!..." in quotes'),
        ("- !!python/object/apply:os.system [x]", "no YAML: could not determine a constructor"),
        ("[]\n---\n[]", "no YAML: but found another document"),
    ],
)
def test_a_file_that_is_no_list_of_definitions_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        converter(tmp_path, text)


def test_a_file_that_cannot_be_read_is_refused_with_the_options_name(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"\[event\] definitions_cfg_file: .*none.yaml can't be read"):
        EventConverter.from_file(tmp_path / "none.yaml")


def test_anchors_and_merges_are_followed(tmp_path: Path) -> None:
    text = """
- event_type: one
  traits: &one
    a: &a {fields: payload.a}
    b: {type: int, fields: payload.b}
- event_type: two
  traits: &two {c: *a}
- event_type: three
  traits:
    <<: [*one, *two]
    b: {fields: payload.b}
"""
    message = notification("three", {"a": "x", "b": 5})
    made = values(converter(tmp_path, text), message)
    assert {name: made[name] for name in "abc"} == {"a": "x", "b": "5", "c": "x"}


def test_a_fault_in_a_merged_trait_is_told_where_it_stands(tmp_path: Path) -> None:
    text = """\
- event_type: one
  traits: &one
    a: {fields: 5.5}
- event_type: two
  traits:
    <<: *one
"""
    assert [fault.split(": ")[0] for fault in faults(tmp_path, text)] == ["F:3", "F:3"]


def test_the_first_field_that_is_not_null_wins(tmp_path: Path) -> None:
    conversion = converter(
        tmp_path, "- {event_type: x, traits: {t: {fields: [payload.a, payload.b.c, publisher_id]}}}"
    )
    assert values(conversion, notification("x", {"a": None, "b": {"c": "c"}}))["t"] == "c"
    assert values(conversion, notification("x", {"a": "", "b": {"c": "c"}}))["t"] == ""
    assert values(conversion, notification("x", {"b": 1}))["t"] == "compute.cmp001"


def test_a_trait_may_be_nothing_but_its_fields(tmp_path: Path) -> None:
    text = "- {event_type: x, traits: {a: payload.a.b, b: [payload.none, payload.c]}}"
    made = values(converter(tmp_path, text), notification("x", {"a": {"b": 5}, "c": "c"}))
    assert (made["a"], made["b"]) == ("5", "c")
    (told,) = faults(tmp_path, "- event_type: x\n  traits:\n    a: 'payload.['")
    assert told.startswith("F:3: definition 1 (x): trait a: 'payload.[' is no JSONPath")


def items(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{"v": "nothing"}, {name: None, "v": "null"}, *({name: one, "v": repr(one)} for one in values)]


@pytest.mark.parametrize(
    ("test", "values_of_n", "first"),
    [
        ("n = 4", ["4"], "'4'"),
        ("n = 4", ["4.0", "four", [], {}, 4.9], "4.9"),
        ("n == -4", [4, "-4"], "'-4'"),
        ("n > 3", ["3", "4"], "'4'"),
        ("n <= 3", [float("inf"), 2**70, 3], "3"),
        ("n != 2", [2, "2", "no number", 3], "3"),
        ("n = true", ["true", 0, 1], "1"),
        ("n = false", [True, 0], "0"),
        ("n = 2.5", ["2.5", 2.5], "2.5"),
        ("n > 2.4", ["2.5", 2, 2.5], "2.5"),
        ("n != 2.5", [2.5, "2.5"], "'2.5'"),
        ("n = '5'", [5, "5"], "'5'"),
        ("n != '5'", ["5", 5], "5"),
        ("n > 'a'", [5, "a", "b"], "'b'"),
        ("n = null", ["null"], "'null'"),
        ("n != null", ["null", 0], "0"),
        ("n ~ '4|5'", [45, "34", "45"], "'45'"),
        ("n ~ a", ["ba", "ab"], "'ab'"),
        ('n ~ "(?i)a~b"', ["a", "A~B"], "'A~B'"),
        ("n =~ 'b'", ["a", "ab"], "'ab'"),
        ("n = 4 & v != '4'", [4, "4"], "'4'"),
        ("n = 4", [], None),
        ("n != 4", [], None),
    ],
)
def test_filters_compare_as_those_of_ceilometer(
    tmp_path: Path, test: str, values_of_n: list[Any], first: str | None
) -> None:
    text = f"- {{event_type: x, traits: {{t: {json.dumps(f'payload.list[?{test}].v')}}}}}"
    found = values(converter(tmp_path, text), notification("x", {"list": items("n", *values_of_n)}))
    assert found.get("t") == first


def test_a_number_in_place_of_fields_is_the_value_whatever_is_notified(tmp_path: Path) -> None:
    text = """
- event_type: x
  traits:
    a: {fields: 0}
    b: {type: int, fields: [7]}
    c: {type: float, fields: 1, plugin: split}
    d: 5
"""
    conversion = converter(tmp_path, text)
    for payload in (None, {"a": 1}):
        made = values(conversion, notification("x", payload))
        assert [made[name] for name in "abcd"] == ["0", 7, 1.0, "5"]
    (told,) = faults(tmp_path, "- {event_type: x, traits: {a: {fields: [1, 2]}}}")
    assert "fields must be a JSONPath or a list of them" in told


def test_a_parameter_that_a_plugin_of_ours_does_not_know_is_told_and_means_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = """
- event_type: x
  traits:
    t:
      fields: payload.a
      plugin: {name: split, parameters: {sep: x, segment: 1}}
"""
    assert values(converter(tmp_path, text), notification("x", {"a": "x.y"}))["t"] == "y"
    assert ":4: definition 1 (x): trait t: plugin split has no parameter sep; it means nothing" in caplog.text


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    (told,) = faults(tmp_path, "- {event_type: x, traits: {a: \"payload.a[?b ~ '(']\"}}")
    assert "is no JSONPath: missing )" in told


@pytest.mark.parametrize("value", ["9" * 200_000, "4", [0], True])
@pytest.mark.parametrize("product", ["payload.a * 1024", "1024 * payload.a", "payload.a * payload.b"])
def test_nothing_but_numbers_is_multiplied(tmp_path: Path, value: Any, product: str) -> None:
    conversion = converter(tmp_path, f"- {{event_type: x, traits: {{t: {product}}}}}")
    assert values(conversion, notification("x", {"a": 3, "b": 1024}))["t"] == "3072"
    assert "t" not in values(conversion, notification("x", {"a": None, "b": 1024}))
    event = conversion.to_event(notification("x", {"a": value, "b": 1024}), "info")
    assert event is not None
    assert event.raw["_salvaged"] == [{"trait": "t", "reason": "dropped: the fields failed with ValueError"}]


def test_paths_from_before_queens_load_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    conversion = converter(
        tmp_path,
        """
- event_type: x
  traits:
    user: {fields: _context_user_id}
    when: {fields: timestamp}
""",
    )
    assert "'_context_user_id' matches nothing since Queens; write ctxt.user_id" in caplog.text
    assert "'timestamp' matches nothing since Queens; write metadata.timestamp" in caplog.text
    assert values(conversion, notification("x", ctxt={"user_id": "u"})).keys() == {"service", "user_id"}


def test_what_is_misspelt_or_there_twice_is_told_where_it_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "event_definitions.yaml"
    path.write_text("""\
- event_type: x
  traits: &traits
    size: {typ: int, fields: payload.size}
    host: {fields: payload.host, plugin: {name: split, parameter: {segment: 1}}}
  trait: {}
- event_type: y
  traits:
    <<: *traits
    <<: {colour: payload.colour}
    size: {type: int, fields: payload.size}
    name: payload.name
    name: payload.display_name
""")
    told: list[str] = []
    assert len(definitions.load(path, told.append)) == 2
    means_nothing = "which means nothing, as in Ceilometer; known are"
    assert [line.replace(str(path), "F") for line in told] == [
        "F:12: name is there twice: the last one counts, as in Ceilometer",
        f"F:5: definition 1 (x) has trait, {means_nothing} event_type, traits",
        f"F:3: definition 1 (x): trait size has typ, {means_nothing} type, fields, plugin",
        f"F:4: definition 1 (x): trait host: plugin split has parameter, {means_nothing} name, parameters",
        f"F:4: definition 2 (y): trait host: plugin split has parameter, {means_nothing} name, parameters",
    ]


def test_the_file_that_ships_has_nothing_to_warn_of() -> None:
    told: list[str] = []
    definitions.load(resources.path("etc", "event_definitions.yaml"), told.append)
    assert told == []


def test_check_tells_what_in_the_definitions_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "event_definitions.yaml"
    path.write_text("- event_type: x\n  traits: {size: {typ: int, fields: payload.size}}\n")
    (tmp_path / "x.conf").write_text(f"[event]\ndefinitions_cfg_file = {path}\n")
    conf = config_reader.read(["--config-file", f"{tmp_path}/x.conf"])
    loads, warning = check.definitions(conf)
    assert loads == ("ok", "definitions", f"{path} loads")
    assert (warning.level, warning.subject) == ("warning", "definitions")
    assert "trait size has typ, which means nothing" in warning.text


def test_a_plugin_of_the_operators_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "operators_plugins.py"
    package.write_text(
        """
class Shout:
    def __init__(self, mark="!"):
        self.mark = mark
    def trait_values(self, match_list):
        return [f"{path}={value.upper()}{self.mark}" for path, value in match_list]
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = EntryPoint("shout", "operators_plugins:Shout", definitions.PLUGINS)
    monkeypatch.setattr(definitions, "entry_points", lambda group: [own] if group == own.group else [])
    conversion = converter(
        tmp_path,
        """
- event_type: x
  traits:
    a: {fields: payload.a, plugin: shout}
    b: {fields: [payload.b, payload.a], plugin: {name: shout, parameters: {mark: '?'}}}
    c: {fields: payload.c, plugin: shout}
""",
    )
    made = values(conversion, notification("x", {"a": "hey"}))
    assert (made["a"], made["b"], "c" in made) == ("payload.a=HEY!", "payload.a=HEY?", False)
    event = conversion.to_event(notification("x", {"a": 5}), "info")
    assert event is not None
    assert event.raw["_salvaged"][0] == {
        "trait": "a",
        "reason": "dropped: plugin Shout failed with AttributeError",
    }


@pytest.mark.parametrize(("value", "made"), [("café", "café"), ("é" * 300, "é" * 255), ("\udcff", "\ufffd")])
def test_bytes_that_a_plugin_returns_are_text_in_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, made: str
) -> None:
    package = tmp_path / "plugins_of_bytes.py"
    package.write_text(
        """
class Encode:
    def trait_values(self, match_list):
        return [value.encode("utf-8", "surrogateescape") for _, value in match_list]
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = EntryPoint("encode", "plugins_of_bytes:Encode", definitions.PLUGINS)
    monkeypatch.setattr(definitions, "entry_points", lambda group: [own])
    conversion = converter(tmp_path, "- {event_type: x, traits: {a: {fields: payload.a, plugin: encode}}}")
    event = conversion.to_event(notification("x", {"a": value}), "info")
    assert event is not None
    assert [trait.value for trait in event.traits if trait.name == "a"] == [made]
    assert bool(event.raw) == (made == "\ufffd")


PLUGGED: list[tuple[str, str, dict[str, Any], Any]] = [
    ("split", "{}", {"a": "x.y"}, "x"),
    ("split", "{segment: 5}", {"a": "x.y"}, None),
    ("split", "{separator: '-', segment: 1, max_split: 1}", {"a": "x-y-z"}, "y-z"),
    ("map", "{values: {'on': 1}, default: -1, case_sensitive: false}", {"a": "ON"}, "1"),
    ("map", "{values: {'on': 1}, default: -1}", {"a": "ON"}, "-1"),
    ("map", "{values: {'on': 1}}", {"a": "ON"}, None),
    ("map", "{values: {'on': 1}}", {"a": "ON", "b": "on"}, "1"),
    ("split", "{segment: 1}", {"a": "x", "b": "x.y"}, "y"),
    ("timedelta", "{}", {"a": "2026-11-23T13:00:01Z", "b": "2026-11-23 13:00:00.5"}, "0.5"),
    ("timedelta", "{}", {"a": "2026-11-23T13:00:01Z"}, None),
    (
        "bitfield",
        (
            "{initial_bitfield: 8, flags: [{path: payload.a, bit: 0}, {path: payload.b, bit: 1, value: 5},"
            " {path: payload.b, bit: 2, value: 6}, {path: payload.c, bit: 4}]}"
        ),
        {"a": 0, "b": 5},
        "11",
    ),
]


@pytest.mark.parametrize(("name", "parameters", "payload", "expected"), PLUGGED)
def test_our_plugins_work_with_ceilometers_parameters(
    tmp_path: Path, name: str, parameters: str, payload: dict[str, Any], expected: Any
) -> None:
    text = f"""
- event_type: x
  traits:
    t:
      fields: [payload.a, payload.b]
      plugin: {{name: {name}, parameters: {parameters}}}
"""
    assert values(converter(tmp_path, text), notification("x", payload)).get("t") == expected


def test_plugins_know_keys_without_the_quotes_that_a_jsonpath_needs(tmp_path: Path) -> None:
    text = """
- event_type: x
  traits:
    t:
      type: int
      fields: [payload."nova_object.data".state, "payload.'a b'[0].'*'"]
      plugin:
        name: bitfield
        parameters:
          flags:
            - {path: payload.nova_object.data.state, bit: 0, value: active}
            - {path: "payload.a b.[0].*", bit: 1}
"""
    payload = {"nova_object.data": {"state": "active"}, "a b": [{"*": 1}]}
    assert values(converter(tmp_path, text), notification("x", payload))["t"] == 3


@pytest.mark.parametrize("wanted", ["5", "5.5", "true"])
def test_a_pattern_that_is_not_in_quotes_is_refused_by_what_it_is(tmp_path: Path, wanted: str) -> None:
    text = f"- event_type: x\n  traits:\n    t:\n      fields: payload.a[?(@.b =~ {wanted})].c\n"
    with pytest.raises(DefinitionError) as refused:
        converter(tmp_path, text)
    path = f"'payload.a[?(@.b =~ {wanted})].c'"
    assert f"trait t: {path} is no JSONPath: behind =~ stands a pattern in quotes" in str(refused.value)
