"""The master: which workers there are to be, whose turn it is on a reload, and what happens on a signal."""

import gc
import logging
import os
import signal
import time
from typing import Any

from panko_ingest import threads
from panko_ingest.shared_metrics import SharedMetrics
from panko_ingest.shared_state import SERVICES, SharedState, Slot, State
from panko_ingest.workers.live_config import LiveConfig
from panko_ingest.workers.process_manager import ProcessManager, ending_all, send
from panko_ingest.workers.supervisor import Supervisor
from panko_ingest.workers.worker import LEFT, Worker

LOG = logging.getLogger(__name__)

_SIGNALS = {number.value: number.name for number in signal.Signals}
_OWN_SIGNALS = {signal.SIGINT, signal.SIGHUP}
_TICK = 1.0
# Of the ingest workers, so many make way for their successors at once on a reload.
_TURNS = 8
# A successor that does not consume by then, since a broker is away, does not keep the others waiting.
_TURN_PATIENCE = 10.0
# After one that did not: as long as those brokers take that are there.
_PATIENCE_AFTER_AN_ABSENCE = 2.0


class Master:
    """Keeps as many workers of each kind running as the settings in force say.

    :param ingester: the kind that reads, of which there may be several.
    :param others: the kinds of which there is one at most.
    """

    def __init__(
        self,
        live_config: LiveConfig,
        shared: SharedState,
        shared_metrics: SharedMetrics,
        supervisor: Supervisor,
        ingester: type[Worker],
        others: list[type[Worker]],
    ) -> None:
        self._live_config = live_config
        self._shared = shared
        self._shared_metrics = shared_metrics
        self._supervisor = supervisor
        self._metrics = shared_metrics.join("master-0")
        self._manager = ProcessManager(live_config.settings.conf.graceful_shutdown_timeout)
        self._services: dict[Any, type[Worker]] = {}
        self._ingester = ingester
        self._most: dict[type[Worker], int] = {}
        for kind in (ingester, *others):
            self._add(kind)
        # By pid, which the system gives out again: the configuration to make way for.
        self._told_to_stop: dict[int, int] = {}
        # The last configuration by which a successor has waited in vain.
        self._waited_in_vain = -1
        self._is_stopping = False

    def _add(self, kind: type[Worker]) -> None:
        number = self._most[kind] = kind.number(self._live_config.settings)
        arguments = (self._live_config, self._shared, self._shared_metrics)
        service_id = self._manager.add(kind, workers=number or 1, args=arguments)
        if not number:  # which add() does not take: a reload may want some
            self._manager.reconfigure(service_id, 0)
        self._services[service_id] = kind

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        # A blocked signal never reaches cotyledon, nor the workers, which inherit the block. It would end at
        # once on SIGINT, and have all workers start anew at once on SIGHUP.
        signal.pthread_sigmask(signal.SIG_BLOCK, _OWN_SIGNALS)
        self._manager.register_hooks(on_terminate=self._stopping, on_dead_worker=self._worker_died)
        self._shared.service_slot("master").occupy(os.getpid())
        for work in (self._watch, self._follow_signals):
            threads.start(work, f"master: {work.__name__}")
        # What is there now the workers share with us, until a collection writes its marks into it.
        gc.collect()
        gc.freeze()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        try:
            self._manager.run()
        except SystemExit as end:  # so cotyledon ends on SIGTERM, when the workers have
            return 1 if end.code else 0
        return 1

    def _watch(self) -> None:
        slot = self._shared.service_slot("master")
        with ending_all("Nobody would watch the workers any more"):
            while True:
                slot.beat()
                if not self._is_stopping:
                    self._give_turns()
                self._supervisor.tick(self._manager.processes(), self._behind)
                time.sleep(_TICK)

    def _follow_signals(self) -> None:
        with ending_all("Nobody would hear signals any more"):
            while True:
                if signal.sigwait(_OWN_SIGNALS) == signal.SIGINT:
                    os.kill(os.getpid(), signal.SIGTERM)
                elif not self._is_stopping:
                    self._reload()

    def _worker_died(self, service_id: Any, number: int, code: int) -> None:
        kind = self._services[service_id]
        # Who ends in good order leaves its slot before, no matter who told it to end.
        went = code == 0 and not (kind is self._ingester and self._shared.recording_slot(number).pid)
        lost = not went and code != LEFT
        # First what the others live by: whatever fails here, cotyledon only logs.
        if kind is self._ingester:
            self._shared.record_death(number)
            if lost:
                self._shared.count_death()
        else:
            self._shared.service_slot(kind.name).clear()
        level = logging.DEBUG if went else logging.WARNING
        LOG.log(level, "%s-%d ended %s", kind.name, number, _how(code))
        self._shared_metrics.forget(kind.place(number))
        if lost:
            self._metrics.lost_workers.labels(kind.name).inc()

    # -- a new configuration

    def _reload(self) -> None:
        self._supervisor.reloading()
        accepted = self._live_config.reload()
        if accepted:
            self._apply()
        self._supervisor.reloaded(accepted=accepted)

    def _apply(self) -> None:
        settings = self._live_config.settings
        self._manager.end_within(settings.conf.graceful_shutdown_timeout)
        self._shared.resize(settings.workers, len(settings.buses))
        for service_id, kind in self._services.items():
            # Those that are too many rest: cotyledon starts again whatever ends.
            if number := max(self._most[kind], kind.number(settings)):
                self._most[kind] = number
                self._manager.reconfigure(service_id, number)
        os.kill(os.getpid(), signal.SIGCHLD)  # cotyledon looks for those that are missing only then

    def _services_at_work(self) -> list[Slot]:
        slots = map(self._shared.service_slot, SERVICES)
        return [slot for slot in slots if slot.pid not in {0, os.getpid()}]

    def _behind(self) -> int:
        """Return how many workers are not there, or work by an older configuration than that in force."""
        services = [kind.name for kind, number in self._most.items() if number and kind is not self._ingester]
        slots = [*map(self._shared.service_slot, services), *self._recording_slots()]
        return sum(not slot.pid or slot.version != self._live_config.version for slot in slots)

    def _recording_slots(self) -> list[Slot]:
        return [self._shared.recording_slot(number) for number in range(self._most[self._ingester])]

    def _give_turns(self) -> None:
        """Have those who work by an older configuration make way: of the ingest workers some at a time."""
        workers = self._recording_slots()
        for slot in self._services_at_work():
            self._replace(slot)
        in_turn = sum(
            not slot.pid or self._is_told_to_stop(slot) or self._is_beginning(number, slot)
            for number, slot in enumerate(workers)
        )
        for slot in workers:
            if in_turn >= max(1, self._live_config.settings.workers // _TURNS):
                return
            in_turn += self._replace(slot)

    def _replace(self, slot: Slot) -> bool:
        """Have a process make way if its configuration is an older one; return whether it is told now."""
        pid, version = slot.pid, self._live_config.version
        if not pid or slot.version == version or self._is_told_to_stop(slot):
            return False
        self._told_to_stop[pid] = version
        return send(pid, signal.SIGTERM)

    def _is_told_to_stop(self, slot: Slot) -> bool:
        return slot.version < self._told_to_stop.get(slot.pid, 0)

    def _is_beginning(self, number: int, recording: Slot) -> bool:
        if number >= self._live_config.settings.workers:
            return False
        if all(slot.state is State.CONSUMING for slot in self._shared.slots(number)):
            return False
        version = self._live_config.version
        if recording.version == version and recording.age > _TURN_PATIENCE:
            self._waited_in_vain = version
        patience = _PATIENCE_AFTER_AN_ABSENCE if self._waited_in_vain == version else _TURN_PATIENCE
        return recording.age <= patience

    # -- the end

    def _stopping(self) -> None:
        self._is_stopping = True
        self._supervisor.stopping()


def _how(code: int) -> str:
    """Return how a process ended; most real-time signals have no name."""
    if code >= 0:
        return f"with exit code {code}"
    return f"by {_SIGNALS.get(-code, f'signal {-code}')}"
