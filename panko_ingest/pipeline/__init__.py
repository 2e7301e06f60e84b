"""From a delivery to a commit: decode, convert, batch, record, settle. Knows no broker and no SQL.

A :class:`Lane` belongs to the thread that reads one bus; the :class:`Writer` is a thread of its own
that all lanes of a process share. Whole batches go from lane to writer, and come back when they are
committed; nothing else is shared between the threads.
"""

from panko_ingest.pipeline.intake import CrashGuard, Intake
from panko_ingest.pipeline.lane import Lane
from panko_ingest.pipeline.writer import Writer

__all__ = ["CrashGuard", "Intake", "Lane", "Writer"]
