"""The byte queue between the receiver and the decoder: a window of memory, then segment files."""

from portd.spool.room import DiskRoom
from portd.spool.spool import Chunk, Spool, SpoolClosed
from portd.spool.statistics import SpoolStatistics

__all__ = ["Chunk", "DiskRoom", "Spool", "SpoolClosed", "SpoolStatistics"]
