"""From notifications to events, by event definitions in Ceilometer's format.

``definitions`` reads the file, ``compiler`` makes a function of each definition, ``engine`` uses them.
"""

from panko_ingest.converter.definitions import EventDefinition, load as load_definitions
from panko_ingest.converter.engine import EventConverter
from panko_ingest.converter.globs import TypeFilter
from panko_ingest.converter.traits import TraitDefinition

__all__ = ["EventConverter", "EventDefinition", "TraitDefinition", "TypeFilter", "load_definitions"]
