"""The ``[event] types`` option."""

import pytest

from panko_ingest.converter import TypeFilter


@pytest.mark.parametrize(
    ("patterns", "wanted", "unwanted"),
    [
        (["*"], ["a", "compute.instance.create"], []),
        (["compute.*", "volume.*"], ["compute.x", "volume.y"], ["image.z", "Compute.x", "xcompute.x"]),
        (["!*.start"], ["compute.x.end"], ["compute.x.start"]),
        (["compute.*", "!compute.*.start"], ["compute.x.end"], ["compute.x.start", "volume.x.end"]),
        (["a?c", "[xy]"], ["abc", "x"], ["ac", "z"]),
        ([], [], ["a"]),
    ],
)
def test_globs_choose_and_exclamation_marks_leave_out(
    patterns: list[str], wanted: list[str], unwanted: list[str]
) -> None:
    accepts = TypeFilter(patterns)
    for _ in range(2):
        assert all(map(accepts, wanted))
        assert not any(map(accepts, unwanted))


def test_a_type_that_is_no_text_passes_the_filter_for_the_converter_to_refuse() -> None:
    accepts = TypeFilter(["compute.*"])
    assert all(map(accepts, [None, 5, ["x"], {}]))


def test_a_type_filter_remembers_a_bounded_number_of_types() -> None:
    accepts = TypeFilter(["type.1*"])
    assert sum(accepts(f"type.{number}") for number in range(20_000)) == 11_111
    assert len(accepts._known) < 10_000
