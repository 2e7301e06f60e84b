"""What every process of the daemon is doing, in memory that it shares with the others.

The master makes the shared state before it forks. Each thread that must not stand still has a slot: the
master's own, the expirer's, the monitor's, and of each ingest worker the bus threads and the recording
thread. It leaves its heartbeat there and, while it converts or stores a message that was delivered before,
that message's digest. When a worker dies, the master notes down the digests it left behind: a message that
kills or hangs the worker that converts or stores it is so found out, also on queues that count no deliveries.

Where a worker left several, nobody knows which one it was. They become suspects all the same, and a suspect
is only looked at when its worker has nothing else in hand (``pipeline/solitude.py``): what a worker dies of
then is known. So no message becomes a dead letter since it was near another one that kills.
"""

import ctypes
import itertools
import mmap
import time
from collections.abc import Iterator
from enum import IntEnum

from panko_ingest.errors import ConfigError

DIGEST_SIZE = 32
CRASHES_BEFORE_DEAD_LETTER = 3
# The memory is there before the workers and can't grow; a page that nobody touches costs nothing.
MAX_WORKERS = 512
MAX_BUSES = 32

SERVICES = ("master", "expirer", "monitor")
"""The processes of the daemon that there is one of at most, beside its ingest workers."""

DEATHS_REMEMBERED = 8
"""Deaths of workers of which it is known when they were."""

_SUSPECTS = 128
# Seconds. A digest takes a tenth of the time that a message does, so not for ever.
_COPIES_COME_FOR = 3600.0
_Digest = ctypes.c_ubyte * DIGEST_SIZE


class State(IntEnum):
    """What a thread is doing: nothing, waiting for a broker or a database, or its work."""

    OFF = 0
    WAITING = 1
    CONSUMING = 2


def check_size(workers: int, buses: int) -> None:
    """Check that a shared state has room for so many.

    :raises ConfigError: it has not.
    """
    if workers > MAX_WORKERS:
        raise ConfigError(f"[notification] workers: {workers} are more than {MAX_WORKERS}")
    if buses > MAX_BUSES:
        raise ConfigError(f"[notification] messaging_urls: {buses} are more than {MAX_BUSES}")


class Slot(ctypes.Structure):
    """The place of one thread. Written by that thread; read, and cleared, by the master.

    ``pid`` is its process, 0 for none; ``hang_limit`` the seconds without a heartbeat after which it hangs, 0
    for the daemon's own limit; ``version`` the configuration that it works by, counted from 0.
    """

    pid: int
    hang_limit: float
    version: int
    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("hang_limit", ctypes.c_double),
        ("_heartbeat", ctypes.c_double),
        ("_begun", ctypes.c_double),
        ("_state", ctypes.c_uint8),
        ("_holds", ctypes.c_bool),
        ("_as_letter", ctypes.c_bool),
        ("_hung", ctypes.c_bool),
        ("_digest", _Digest),
    )

    def occupy(self, pid: int, hang_limit: float = 0.0, version: int = 0) -> None:
        """Begin: the heartbeat counts from now."""
        self._heartbeat = self._begun = time.monotonic()
        self.hang_limit, self.version = hang_limit, version
        self._state, self._holds, self._hung = State.WAITING, False, False
        self.pid = pid  # last: who sees it sees a heartbeat of now, too

    def clear(self) -> None:
        """End: nobody waits for a heartbeat any more."""
        self._heartbeat = time.monotonic()
        self.pid = 0
        self._state, self._holds, self._hung = State.OFF, False, False

    def beat(self, consuming: bool = True) -> None:
        """Leave a heartbeat."""
        self._state = State.CONSUMING if consuming else State.WAITING
        self._heartbeat = time.monotonic()

    def hold(self, digest: bytes, *, as_letter: bool = False) -> None:
        """Say which message is being converted, or stored, and whether that is as a dead letter."""
        self._digest[:] = digest
        self._as_letter = as_letter
        self._holds = True

    def release(self) -> None:
        """Say that it was."""
        self._holds = False

    def note_hang(self) -> None:
        """Say that the thread hangs, for which its process is going to be killed."""
        self._hung = True

    @property
    def hangs(self) -> bool:
        """Whether the process was killed since this thread hung."""
        return bool(self._hung)

    @property
    def state(self) -> State:
        """What the thread is doing."""
        return State(self._state)

    @property
    def held(self) -> bytes | None:
        """The digest of the message that is being converted, or stored."""
        return bytes(self._digest) if self._holds else None

    @property
    def holds_letter(self) -> bool:
        """Whether that message is being stored as a dead letter."""
        return bool(self._holds and self._as_letter)

    @property
    def seconds_since_heartbeat(self) -> float:
        """Seconds since the last heartbeat; 0 for a slot that nobody uses."""
        return max(0.0, time.monotonic() - self._heartbeat) if self.pid else 0.0

    @property
    def seconds_since_cleared(self) -> float:
        """Seconds since the slot was left; 0 for a slot that is in use."""
        return 0.0 if self.pid else max(0.0, time.monotonic() - self._heartbeat)

    @property
    def age(self) -> float:
        """Seconds since the thread began."""
        return max(0.0, time.monotonic() - self._begun)


class _Suspect(ctypes.Structure):
    """A message that workers may have died of.

    ``deaths`` are those of workers that held it, ``crashes`` those of which it must be the reason, as they
    held no other, and ``conversions`` those among these that did not get as far as to store it; ``letters``
    those of workers that stored it as a dead letter. The last one of all was at ``died_at``, in monotonic
    seconds.
    """

    _fields_ = (
        ("deaths", ctypes.c_uint32),
        ("crashes", ctypes.c_uint32),
        ("conversions", ctypes.c_uint32),
        ("letters", ctypes.c_uint32),
        ("died_at", ctypes.c_double),
        ("digest", _Digest),
    )


class _Memory(ctypes.Structure):
    """All of it; the last slot of an ingest worker is its recording thread's."""

    _fields_ = (
        ("workers", ctypes.c_uint32),
        ("buses", ctypes.c_uint32),
        ("deaths", ctypes.c_uint32),
        ("died_at", ctypes.c_double * DEATHS_REMEMBERED),
        ("copies_expected_until", ctypes.c_double),
        ("services", Slot * len(SERVICES)),
        ("ingesters", (Slot * (MAX_BUSES + 1)) * MAX_WORKERS),
        ("suspects", _Suspect * _SUSPECTS),
    )


class SharedState:
    """All slots, and the messages that workers died of.

    :param workers: ingest workers.
    :param buses: bus threads of each.
    :raises ConfigError: there are more than the shared state has room for.
    """

    def __init__(self, workers: int, buses: int) -> None:
        self._memory = _Memory.from_buffer(mmap.mmap(-1, ctypes.sizeof(_Memory)))
        for service in SERVICES:  # those that never come are missed from now on
            self.service_slot(service).clear()
        self.resize(workers, buses)

    def resize(self, workers: int, buses: int) -> None:
        """Have other numbers of workers and buses from now on; slots that stay keep what they hold.

        :raises ConfigError: there are more than the shared state has room for.
        """
        check_size(workers, buses)
        memory = self._memory
        for worker, bus in itertools.product(range(workers), range(buses)):
            slot = self.bus_slot(worker, bus)
            if (worker >= memory.workers or bus >= memory.buses) and not slot.pid:
                slot.clear()
        memory.workers, memory.buses = workers, buses

    def slots(self, worker: int | None = None) -> list[Slot]:
        """Return the slots of the bus threads of one worker, or of all, as many as there are to be."""
        workers = range(self._memory.workers) if worker is None else [worker]
        return [self.bus_slot(number, bus) for number in workers for bus in range(self._memory.buses)]

    def vacancies(self) -> list[float]:
        """Return for each of these slots the seconds for which nobody was there to use it.

        None are counted while its worker works, by an older configuration with fewer buses, or ends.
        """
        return [
            min(self.bus_slot(number, bus).seconds_since_cleared, recording.seconds_since_cleared)
            for number in range(self._memory.workers)
            for recording in [self.recording_slot(number)]
            for bus in range(self._memory.buses)
        ]

    def bus_slot(self, worker: int, bus: int) -> Slot:
        """Return the slot of one bus thread."""
        slot: Slot = self._memory.ingesters[worker][bus]
        return slot

    def recording_slot(self, worker: int) -> Slot:
        """Return the slot of a worker's recording thread."""
        return self.bus_slot(worker, MAX_BUSES)

    def service_slot(self, service: str) -> Slot:
        """Return the slot of the one process of its kind."""
        slot: Slot = self._memory.services[SERVICES.index(service)]
        return slot

    def occupied(self) -> Iterator[tuple[str, Slot]]:
        """Yield every slot that is in use, with the name of its thread."""
        for service in SERVICES:
            if (slot := self.service_slot(service)).pid:
                yield service, slot
        for worker in range(MAX_WORKERS):
            recording = self.recording_slot(worker)
            if recording.pid:
                yield f"recording thread {worker}", recording
            elif (
                worker >= self._memory.workers
            ):  # who is left over from a larger number still has that thread
                continue
            for bus in range(MAX_BUSES):
                if (slot := self.bus_slot(worker, bus)).pid:
                    yield f"reader {worker}.{bus}", slot

    @property
    def deaths(self) -> int:
        """How many workers ended otherwise than in good order."""
        return int(self._memory.deaths)

    def count_death(self) -> None:
        """Count a worker that ended otherwise than in good order. Called by the master only."""
        memory = self._memory
        memory.died_at[memory.deaths % DEATHS_REMEMBERED] = time.monotonic()
        memory.deaths += 1

    def deaths_within(self, seconds: float) -> int:
        """Return how many of these there were lately; a few at most are remembered."""
        since = time.monotonic() - seconds
        return sum(moment > since for moment in self._memory.died_at[: self.deaths])

    def note_hang(self, pid: int, silence: float) -> None:
        """Note down which threads of a process hang, before it is killed for it. Called by the master only.

        :param silence: seconds without a heartbeat that make one suspicious.
        """
        for _, slot in self.occupied():
            if slot.pid == pid and slot.seconds_since_heartbeat > silence:
                slot.note_hang()

    def acquit(self, pid: int) -> None:
        """Note down that a process, which is going to end, does not die of any message that it holds."""
        for _, slot in self.occupied():
            if slot.pid == pid:
                slot.release()

    def record_death(self, worker: int) -> None:
        """Note down what a dead worker held, and clear its slots. Called by the master only."""
        recording = self.recording_slot(worker)
        slots = [slot for slot in (*self._bus_slots(worker), recording) if slot.pid or slot.held is not None]
        hung = [slot for slot in slots if slot.hangs]
        held = {slot.held: slot is not recording for slot in hung or slots if slot.held is not None}
        for digest, converting in held.items():
            self._note(
                digest,
                alone=len(held) == 1,
                converting=converting,
                as_letter=recording.held == digest and recording.holds_letter,
            )
        for slot in (*slots, recording):
            slot.clear()

    def _bus_slots(self, worker: int) -> list[Slot]:
        return [self.bus_slot(worker, bus) for bus in range(MAX_BUSES)]

    def is_poison(self, digest: bytes, returns: int = 0) -> bool:
        """Whether so many workers died of this message that it is to be converted no more.

        :param returns: how often the broker counted that it came back.
        """
        suspect = self._suspect(digest)
        if suspect is None or not suspect.crashes:
            return False
        # At its first delivery nobody noted it down. A broker that counts drops it when that is too often.
        unnoted = returns > suspect.deaths
        return bool(suspect.deaths + unnoted >= CRASHES_BEFORE_DEAD_LETTER)

    @property
    def has_suspects(self) -> bool:
        """Whether there is any message that a worker may have died of."""
        return bool(self._memory.suspects[0].deaths)

    def is_suspect(self, digest: bytes) -> bool:
        """Whether a worker may have died of this message."""
        return self._suspect(digest) is not None

    def may_be_read(self, digest: bytes) -> bool:
        """Whether what is in a message killed nobody, but only the storing of its event."""
        suspect = self._suspect(digest)
        return suspect is None or not (suspect.conversions or suspect.letters)

    @property
    def knows_poison(self) -> bool:
        """Whether workers died of a message lately, of which copies may come."""
        until: float = self._memory.copies_expected_until
        return until > 0 and time.monotonic() < until

    def _suspect(self, digest: bytes) -> _Suspect | None:
        suspects = self._memory.suspects
        if digest not in bytes(suspects):  # at once, as this is asked of each message for a while
            return None
        return next((one for one in suspects if one.deaths and bytes(one.digest) == digest), None)

    def _note(self, digest: bytes, *, alone: bool, converting: bool, as_letter: bool) -> None:
        suspect = self._suspect(digest)
        if suspect is None:  # a full table gives up the one that fewest workers died of, the longest ago
            suspect = min(self._memory.suspects, key=lambda one: (one.deaths, one.died_at))
            suspect.deaths = suspect.crashes = suspect.conversions = suspect.letters = 0
            suspect.digest[:] = digest
        suspect.died_at = time.monotonic()
        suspect.deaths += 1
        suspect.crashes += alone
        suspect.conversions += alone and converting
        suspect.letters += alone and as_letter
        if suspect.crashes and suspect.deaths >= CRASHES_BEFORE_DEAD_LETTER - 1:
            self._memory.copies_expected_until = time.monotonic() + _COPIES_COME_FOR
