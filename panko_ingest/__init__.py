"""Turns OpenStack notifications into a queryable event history."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("panko-ingest")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0"
