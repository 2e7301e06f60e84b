from itertools import islice

from panko_ingest.backoff import pauses


def test_pauses_between_attempts_double_up_to_the_longest_and_are_never_all_alike() -> None:
    for _ in range(100):
        taken = list(islice(pauses(0.5, 3.0), 6))
        for pause, full in zip(taken, (0.5, 1.0, 2.0, 3.0, 3.0, 3.0), strict=True):
            assert full / 2 <= pause <= full
    assert len(set(islice(pauses(1.0, 1.0), 20))) > 1
