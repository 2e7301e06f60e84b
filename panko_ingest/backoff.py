"""How long to wait before trying again."""

import random
from collections.abc import Iterator


def pauses(first: float, longest: float) -> Iterator[float]:
    """Yield seconds for ever: doubling from ``first`` to ``longest``, each shortened by up to half.

    The jitter keeps the workers of many hosts from coming back all at once.
    """
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, longest)
