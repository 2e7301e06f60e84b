"""A scene with so many messages that Python would need very long to look at each trait."""

from collections.abc import Sequence

import psycopg

from tests.faults.repeats import Repeats
from tests.faults.scene import Scene
from tests.ledger import assert_equal

# Which of the repeated messages became events that differ in their traits. Hashes are added up,
# so that nobody needs to sort; types and values are kept apart by what they are hashed with.
_DIFFERENT = """
WITH traits AS (
    SELECT event_id, hashtextextended(key || '=' || value, 1) AS hash FROM trait_text
    UNION ALL SELECT event_id, hashtextextended(key || '=' || value, 2) FROM trait_int
    UNION ALL SELECT event_id, hashtextextended(key || '=' || value, 3) FROM trait_float
    UNION ALL SELECT event_id, hashtextextended(key || '=' || value, 4) FROM trait_datetime
), sums AS (
    SELECT event_id, sum(hash)::text || ' of ' || count(*) AS sum FROM traits GROUP BY event_id
)
SELECT substr(message_id, 9), count(DISTINCT sum) FROM event LEFT JOIN sums ON event_id = event.id
GROUP BY 1 HAVING count(DISTINCT sum) != 1 OR count(*) != count(sum)
"""


class LongScene(Scene):
    """One whose load is :class:`Repeats`, and whose database is PostgreSQL."""

    def assert_holds(self, published: Sequence[bytes]) -> None:
        """Compare the first round trait by trait here, and have the database compare the others with it."""
        assert isinstance(published, Repeats)
        assert self.ledger.events() == len(published)
        first = self.ledger.stored(("00000000", "00000001"))
        assert_equal(self.ledger.expected(published.first_round), first)
        with psycopg.connect(self.ledger.url) as connection:
            different = connection.execute(_DIFFERENT).fetchall()
        assert not different, f"{len(different)} messages became different events, such as {different[:3]}"
