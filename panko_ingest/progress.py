"""What the workers are doing, in memory that they share with the master.

The master makes the board before it forks. Each bus thread of each ingest worker has a slot, in
which it leaves its pulse and, while it converts a message that was delivered before, that message's
digest. When a worker dies, the master counts the digest it left behind: a message that kills or hangs
whoever converts it is so found out, also on queues that count no deliveries.
"""

import mmap
import struct
import time
from enum import IntEnum

from panko_ingest.errors import ConfigError

DIGEST_SIZE = 32
CRASHES_BEFORE_DEAD_LETTER = 3
# The memory is there before the workers and can't grow; a page that nobody touches costs nothing.
MAX_WORKERS = 512
MAX_BUSES = 32

_SLOT = struct.Struct("=IBBd32s")  # pid, state, whether a digest is held, pulse, digest
_SUSPECT = struct.Struct("=I32s")  # crashes, digest
_HEADER = struct.Struct("=IIII")  # configuration generation, workers, buses, deaths
_SIZES_AT, _DEATHS_AT = 4, 12  # threads of the master write these and the generation, each its own
_SUSPECTS = 128
_NO_DIGEST = bytes(DIGEST_SIZE)


class State(IntEnum):
    """What a bus thread is doing."""

    OFF = 0
    WAITING = 1
    CONSUMING = 2


def check_size(workers: int, buses: int) -> None:
    """Check that a board has room for so many.

    :raises ConfigError: it has not.
    """
    if workers > MAX_WORKERS:
        raise ConfigError(f"[notification] workers: {workers} are more than {MAX_WORKERS}")
    if buses > MAX_BUSES:
        raise ConfigError(f"[notification] messaging_urls: {buses} are more than {MAX_BUSES}")


class Slot:
    """One bus thread's place on the board. Written by that thread; read, and cleared, by the master."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self.offset = offset

    def occupy(self, pid: int) -> None:
        """Begin: the pulse counts from now."""
        _SLOT.pack_into(self._memory, self.offset, pid, State.WAITING, 0, time.monotonic(), _NO_DIGEST)

    def clear(self) -> None:
        """End: nobody waits for a pulse any more."""
        _SLOT.pack_into(self._memory, self.offset, 0, State.OFF, 0, time.monotonic(), _NO_DIGEST)

    def beat(self, consuming: bool) -> None:
        """Leave a pulse."""
        state = State.CONSUMING if consuming else State.WAITING
        struct.pack_into("=B", self._memory, self.offset + 4, state)
        struct.pack_into("=d", self._memory, self.offset + 6, time.monotonic())

    def hold(self, digest: bytes) -> None:
        """Say which message is being converted."""
        struct.pack_into("=32s", self._memory, self.offset + 14, digest)
        struct.pack_into("=B", self._memory, self.offset + 5, 1)

    def release(self) -> None:
        """Say that the message was converted."""
        struct.pack_into("=B", self._memory, self.offset + 5, 0)

    @property
    def pid(self) -> int:
        """The process of the thread, 0 for none."""
        return int(self._read()[0])

    @property
    def state(self) -> State:
        """What the thread is doing."""
        return State(self._read()[1])

    @property
    def silence(self) -> float:
        """Seconds since the last pulse; 0 for a slot that nobody uses."""
        pid, _, _, pulse, _ = self._read()
        return max(0.0, time.monotonic() - pulse) if pid else 0.0

    @property
    def vacancy(self) -> float:
        """Seconds since the slot was left; 0 for a slot that is in use."""
        pid, _, _, left, _ = self._read()
        return 0.0 if pid else max(0.0, time.monotonic() - left)

    @property
    def held(self) -> bytes | None:
        """The digest of the message that is being converted."""
        _, _, held, _, digest = self._read()
        return bytes(digest) if held else None

    def _read(self) -> tuple[int, int, int, float, bytes]:
        return _SLOT.unpack_from(self._memory, self.offset)


class Board:
    """All slots, and the messages that workers died of.

    :param workers: ingest workers.
    :param buses: bus threads of each.
    :raises ConfigError: there are more than the board has room for.
    """

    def __init__(self, workers: int, buses: int) -> None:
        self._suspects_at = _HEADER.size + MAX_WORKERS * MAX_BUSES * _SLOT.size
        self._memory = mmap.mmap(-1, self._suspects_at + _SUSPECTS * _SUSPECT.size)
        self.resize(workers, buses)

    def resize(self, workers: int, buses: int) -> None:
        """Have other numbers of workers and buses from now on; slots that stay keep what they hold.

        :raises ConfigError: there are more than the board has room for.
        """
        check_size(workers, buses)
        before = {slot.offset for slot in self.slots()}
        struct.pack_into("=II", self._memory, _SIZES_AT, workers, buses)
        for slot in self.slots():
            if slot.offset not in before:
                slot.clear()

    def slots(self, worker: int | None = None) -> list[Slot]:
        """Return the slots of one worker, or of all."""
        _, workers, buses, _ = _HEADER.unpack_from(self._memory, 0)
        return [
            Slot(self._memory, _HEADER.size + (number * MAX_BUSES + bus) * _SLOT.size)
            for number in (range(workers) if worker is None else [worker])
            for bus in range(buses)
        ]

    @property
    def generation(self) -> int:
        """Number of the configuration in force; a worker started under an older one restarts."""
        return int(_HEADER.unpack_from(self._memory, 0)[0])

    @generation.setter
    def generation(self, value: int) -> None:
        struct.pack_into("=I", self._memory, 0, value)

    @property
    def deaths(self) -> int:
        """How many workers ended otherwise than in good order."""
        return int(_HEADER.unpack_from(self._memory, 0)[3])

    def count_death(self) -> None:
        """Count a worker that ended otherwise than in good order. Called by the master only."""
        struct.pack_into("=I", self._memory, _DEATHS_AT, self.deaths + 1)

    def bury(self, worker: int) -> None:
        """Count what a dead worker was converting, and clear its slots. Called by the master only."""
        for slot in self.slots(worker):
            digest = slot.held
            slot.clear()
            if digest is not None:
                self._count(digest)

    def deadly(self, digest: bytes, returns: int = 0) -> bool:
        """Whether so many workers died of this message that it is to be converted no more.

        :param returns: how often the broker counted that it came back.
        """
        crashes = max((count for count, suspect in self._suspects() if suspect == digest), default=0)
        # At its first delivery nobody noted it down. A broker that counts drops it when that is too often.
        unnoted = crashes > 0 and returns > crashes
        return crashes + unnoted >= CRASHES_BEFORE_DEAD_LETTER

    def _suspects(self) -> list[tuple[int, bytes]]:
        return [
            _SUSPECT.unpack_from(self._memory, self._suspects_at + index * _SUSPECT.size)
            for index in range(_SUSPECTS)
        ]

    def _count(self, digest: bytes) -> None:
        suspects = self._suspects()
        known = [index for index, (crashes, suspect) in enumerate(suspects) if crashes and suspect == digest]
        # A full table gives up the one that fewest workers died of.
        index = known[0] if known else min(range(_SUSPECTS), key=lambda number: suspects[number][0])
        crashes = suspects[index][0] + 1 if known else 1
        _SUSPECT.pack_into(self._memory, self._suspects_at + index * _SUSPECT.size, crashes, digest)
