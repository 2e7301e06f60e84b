"""Virtual time, and threads that are run one at a time in an order that a seed decides.

The product's threads run as greenlets. Wherever one of them would wait (an event, a queue, a socket, a
sleep) it goes back to the world, which goes on with whoever is due next. Nothing depends on the real clock,
so a seed always gives the same run.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

from greenlet import getcurrent, greenlet


class Stuck(AssertionError):
    """More happened than a world is meant to need: something goes round in circles."""


class _Killed(KeyboardInterrupt):
    """Ends a thread; of all that can be raised, nobody takes it for the fault of a message or of a plugin."""


class Task:
    """One simulated thread."""

    def __init__(
        self, world: "World", name: str, work: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self.name = name
        self.ended = False
        self.error: BaseException | None = None
        self._world = world
        self._on_end = on_end
        self._greenlet = greenlet(lambda: self._run(work), parent=world.hub)
        self.wakeup = 0
        """Number of the wait that a wake-up may end; older wake-ups mean nothing."""

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever ends a thread is looked at by its process
            self.error = error
        self.ended = True
        self._on_end()

    def resume(self) -> None:
        """Run until the thread waits again."""
        if not self.ended:
            self._greenlet.switch()

    def kill(self) -> None:
        """End the thread where it stands, as SIGKILL does. Not to be called by a simulated thread."""
        assert getcurrent() is self._world.hub
        if self.ended:
            return
        self.ended = True
        if self._greenlet:
            self._greenlet.throw(_Killed)


class World:
    """What time it is, and who is to run when."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now = 1000.0
        self.steps = 0
        self.message_of: dict[bytes, str] = {}
        """The id of each message that was delivered, by the digest that a dead letter calls it."""
        self.trace: deque[str] = deque(maxlen=400)
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.hub = getcurrent()
        self._current: Task | None = None

    def tell(self, text: str) -> None:
        """Note down what happened, for whoever looks at a seed that failed."""
        self.trace.append(f"{self.now:9.3f} {text}")

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Have something done at a time."""
        heapq.heappush(self._due, (max(moment, self.now), next(self._numbers), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done so many seconds from now."""
        self.at(self.now + seconds, action)

    def spawn(self, name: str, work: Callable[[], None], on_end: Callable[[], None] = lambda: None) -> Task:
        """Start a thread."""
        task = Task(self, name, work, on_end)
        self.after(0.0, lambda: self._resume(task, task.wakeup))
        return task

    def wait(self, timeout: float | None, register: Callable[[Callable[[], None]], None]) -> None:
        """Let the thread that runs now wait to be woken, or for so many seconds.

        :param register: is given what wakes the thread.
        """
        task = self._current
        assert task is not None, "only a simulated thread can wait"
        task.wakeup += 1
        number = task.wakeup

        def wake() -> None:
            # Not at once: who wakes another goes on first.
            self.after(0.0, lambda: self._resume(task, number))

        register(wake)
        if timeout is not None:
            self.after(timeout, lambda: self._resume(task, number))
        self.hub.switch()

    def sleep(self, seconds: float) -> None:
        """Let the thread that runs now wait for so many seconds."""
        self.wait(max(0.0, seconds), lambda _wake: None)

    def _resume(self, task: Task, number: int) -> None:
        if task.ended or task.wakeup != number:
            return
        task.wakeup += 1
        self._current = task
        try:
            task.resume()
        finally:
            self._current = None

    def run_until(
        self, end: float, done: Callable[[], bool] = lambda: False, most_steps: int = 300_000
    ) -> bool:
        """Run till a moment, or till ``done``; tell whether it is done."""
        while self._due and self._due[0][0] <= end:
            if done():
                return True
            moment, _, action = heapq.heappop(self._due)
            self.now = max(self.now, moment)
            self.steps += 1
            if self.steps > most_steps:
                raise Stuck(f"{self.steps} steps by {self.now - 1000:.1f} s")
            action()
        self.now = max(self.now, end)
        return done()


class Event:
    """threading.Event, in the world's time."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it, and wake who waits."""
        self._set = True
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def clear(self) -> None:
        """Unset it."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for so long."""
        if not self._set:
            current().wait(timeout, self._waiting.append)
        return self._set


class Waker:
    """The consumer's waker, in the world's time."""

    def __init__(self) -> None:
        self._event = Event()
        self.wake = self._event.set

    def wait(self, timeout: float) -> None:
        """Wait for so many seconds, or until woken."""
        if timeout > 0:
            self._event.wait(timeout)
        self._event.clear()


_worlds: list[World] = []


def current() -> World:
    """Return the world that runs now."""
    return _worlds[-1]


class _Randomness:
    """The module ``random``, by the seed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(current().random, name)


def _sleep(seconds: float) -> None:
    current().sleep(seconds)


_STANDARD = {
    "time": SimpleNamespace(
        monotonic=lambda: current().now,
        perf_counter=lambda: current().now,
        time=lambda: current().now,
        sleep=_sleep,
    ),
    "threading": SimpleNamespace(Event=Event),
    "random": _Randomness(),
    "Waker": Waker,
}


@contextmanager
def simulated(modules: list[ModuleType], world: World) -> Iterator[None]:
    """Give modules of the product the world's clock, threads and randomness for those of Python."""
    replaced = [
        (module, name, getattr(module, name))
        for module in modules
        for name in _STANDARD
        if (name == "Waker" and hasattr(module, name)) or isinstance(getattr(module, name, None), ModuleType)
    ]
    _worlds.append(world)
    try:
        for module, name, _ in replaced:
            setattr(module, name, _STANDARD[name])
        yield
    finally:
        for module, name, original in replaced:
            setattr(module, name, original)
        _worlds.pop()
