"""From a delivery to a commit: decode, convert, batch, record, settle. Knows no broker and no SQL.

A :class:`BusPipeline` belongs to the thread that reads one bus; the :class:`RecordingThread` is one that all
buses of a process share. Whole batches go from the first to the second, and come back when they are
committed; nothing else is shared between the threads.
"""

from panko_ingest.pipeline.bus_pipeline import BusPipeline
from panko_ingest.pipeline.flow_control import Budget, FlowControl
from panko_ingest.pipeline.processor import MessageProcessor, PoisonGuard
from panko_ingest.pipeline.recording_thread import RecordingThread
from panko_ingest.pipeline.solitude import Solitude

__all__ = [
    "Budget",
    "BusPipeline",
    "FlowControl",
    "MessageProcessor",
    "PoisonGuard",
    "RecordingThread",
    "Solitude",
]
