"""The watchdog of one process.

1. The main thread says what it does (`Activity`); a thread looks at it a few times a second or less.
2. After `join` the processes exchange heartbeats. A process that has done nothing new for `seconds` asks whether
   anybody has; if not, it finds out whom they wait for, says so once for all, and ends. So does one whose exchange
   failed, or whose neighbour on the machine is gone. The others obey what was said and end too.
3. A stop signal before the first step ends all at once, with 75: nothing is there to be saved. Later it is the loop's.
   A launcher that is gone counts as a signal.

A process that is stopped (SIGSTOP) with all others, as a scheduler does to make room, goes on afterwards: its clock
counts only the time it was awake.
"""

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import NoReturn

from pretrain.comm import Placement, flight_record
from pretrain.errors import PretrainError, StoppedBySignal
from pretrain.signals import StopRequest
from pretrain.watch import ending, processes
from pretrain.watch.activity import ENDING, Activity
from pretrain.watch.beats import Beat, Beats, End, Store
from pretrain.watch.ending import FaultFolder
from pretrain.watch.judging import Peer, anyone_moves, gone, judge, sentence

INTERVAL_SECONDS = 1.0
TICKS_PER_LIMIT = 6  # at least; short limits have shorter intervals
SILENT_INTERVALS = 4
ALONE_SECONDS = 5.0
UNJOINED_SECONDS = 20.0  # the same where there is no way yet to hear that rank 0 has spoken
OBEY_SECONDS = 3.0  # in which a process that is told of an ordinary end may come to its own
JOIN_SECONDS = 15.0
START_AGAIN = "Saved checkpoints are whole: start again to go on from the last one."


@dataclass(frozen=True)
class WatchOptions:
    """`seconds` without anything new, on any rank, that end the run; `start_seconds` until the first step is done,
    where code is compiled. 0: never."""

    seconds: float = 0.0
    start_seconds: float = 0.0

    @property
    def interval(self) -> float:
        limits = [each for each in (self.seconds, self.start_seconds) if each > 0]
        return min([INTERVAL_SECONDS, *(each / TICKS_PER_LIMIT for each in limits)])


class Watch:
    """Without `start`, only a place for the activity and the stop request."""

    def __init__(self, place: Placement, stop: StopRequest, options: WatchOptions | None = None) -> None:
        self.activity = Activity()
        self.stop = stop
        self._place, self._options = place, options or WatchOptions()
        self._main = threading.main_thread().ident or 0
        self._beats: Beats | None = None
        self._joined, self._closed = threading.Event(), threading.Event()
        self._ending = threading.Lock()
        self._folder: FaultFolder | None = None
        self._first_step: int | None = None  # None: nothing is there yet that a signal should save
        self._progress: Callable[[], object] = lambda: None
        self._progress_at_start: object = None
        self._before_end: list[Callable[[], None]] = []
        self._machine = processes.machine()
        self._launchers = processes.launchers()
        own = processes.process(os.getpid())
        assert own is not None
        self._process = own
        self._awake, self._number = 0.0, 0
        self._moves, self._moved_at = self.activity.moves, 0.0

    # What the main thread calls.

    def start(self) -> None:
        """The watchdog begins."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()
        self.stop.tell(self._asked_to_stop)

    def join(self, connect: Callable[[], Store] | None) -> None:
        """The process group is there; `connect` makes a client of its store, and is None in a world of one."""
        place = self._place
        if connect is not None and self._options.interval > 0:
            first = place.rank - place.local_rank
            neighbours = range(first, min(place.world_size, first + place.local_world_size))
            self._beats = Beats(
                connect, place.rank, neighbours, place.world_size, self._options.interval, lambda: self._awake
            )
        self._joined.set()

    def introduction(self) -> Beat:
        """What the others are told of this process when all have joined, so that each is known by name and number from
        then on."""
        return self._beat()

    def know(self, introductions: Iterable[Beat]) -> None:
        """Those of all ranks."""
        if self._beats is not None:
            self._beats.know(introductions)

    def report_into(self, run: Path) -> None:
        """From now on faults are described in this run folder."""
        self._folder = FaultFolder(run)

    def before_end(self, action: Callable[[], None]) -> None:
        """Done before the watchdog ends the process, if it takes no more than a few seconds."""
        self._before_end.append(action)

    def begin_training(self, first_step: int, progress: Callable[[], object]) -> None:
        """From now on a stop signal is for the loop to obey. `progress()` changes when a checkpoint is committed."""
        with self._ending:  # a signal that was first ends the process instead
            self._first_step = first_step
            self._progress, self._progress_at_start = progress, progress()

    def close(self) -> None:
        """The process ends by itself."""
        self._closed.set()
        if self._beats is not None:
            self._beats.close()

    def explain(self, error: Exception) -> NoReturn:
        """Ends the process after an error that nobody expected: as a peer's fault if one is gone, else as its own."""
        if isinstance(error, RuntimeError) and self._beats is not None:
            self._blame_a_peer(self._beats)
        self.activity.now(ENDING)
        trace = "".join(traceback.format_exception(error)).rstrip()
        step = self.activity.doing.step
        where = "before the first step" if step is None else f"in step {step}"
        last_line = trace.splitlines()[-1]
        self._finish(
            End(
                self._place.rank,
                self._fault_code(),
                f"Rank {self._place.rank} failed {where}: {last_line}",
                True,
            ),
            first_words=trace,
        )

    def say(self, error: PretrainError) -> int:
        """Says a user's error or a stop once for all ranks; the exit code. Rank 0 goes first: where all met the same
        error, another rank says nothing; one that met it alone says so after a while. One that its launcher told to end
        before it had joined is not alone: rank 0 has ended."""
        rank, beats = self._place.rank, self._beats
        is_last = rank != 0 and beats is None and self.stop.signal_name is not None
        text = f"error: {error}" if rank == 0 else f"error: rank {rank}: {error}"
        self.activity.now(ENDING)
        self.stop.end_listening(None if rank == 0 else error.exit_code)  # rank 0 has yet to speak
        with self._ending:
            alone = UNJOINED_SECONDS if beats is None else ALONE_SECONDS
            deadline = monotonic() + alone * (rank != 0 and not is_last)
            while monotonic() < deadline and not (beats and (beats.end or self._is_out_of_contact(beats))):
                sleep(self._options.interval / 4)
            own = End(rank, error.exit_code, str(error), False)
            end = (beats and beats.end) or ending.settle(own, beats, self._folder)
            if end == own and (rank == 0 or not (is_last or isinstance(error, StoppedBySignal))):
                ending.say(text)
            self._linger()
        return error.exit_code

    # What the thread does.

    def _run(self) -> None:
        interval, last = self._options.interval, monotonic()
        while not self._closed.wait(interval):
            self._awake, last = self._awake + min(monotonic() - last, 2 * interval), monotonic()
            self._look_around()

    def _look_around(self) -> None:
        if self.activity.moves != self._moves:
            self._moves, self._moved_at = self.activity.moves, self._awake
        if any(each.is_dead for each in self._launchers):
            self._launchers = []
            ending.mute_what_nobody_reads()
            os.kill(os.getpid(), signal.SIGTERM)
        beats, own = self._beats, self._beat()
        if beats is not None:
            beats.own = own
            if beats.end is not None:
                self._obey(beats.end)
            lost = gone(self._peers(beats, own))
            # Who ends goes without a word; and who fails may be saying why.
            if lost and own.doing.what != ENDING and not self._closed.wait(self._options.interval):
                self._blame(beats, own)
        limit = self._limit
        if limit and own.still >= limit:
            self._blame_for_standing_still(beats, own, limit)

    @property
    def _limit(self) -> float:
        """Seconds without anything new that are too many now."""
        starting = self._first_step is None or self.activity.doing.step in (None, self._first_step)
        return self._options.start_seconds if starting else self._options.seconds

    def _beat(self) -> Beat:
        self._number += 1
        where, exchanging = processes.innermost_frame(self._main)
        return Beat(
            rank=self._place.rank,
            machine=self._machine,
            process=self._process,
            number=self._number,
            doing=self.activity.doing,
            still=self._awake - self._moved_at,
            where=where,
            exchanging=exchanging,
        )

    def _peers(self, beats: Beats | None, own: Beat) -> list[Peer]:
        """All ranks, this one too."""
        peers = []
        for rank in range(self._place.world_size):
            beat = own if beats is None or rank == own.rank else beats.last_of(rank)
            is_here = beat is not None and beat.machine == self._machine
            state = beat.process.state if beat is not None and is_here else None
            silence = 0.0 if beats is None or rank == own.rank else beats.silence(rank)
            peers.append(Peer(rank, beat, silence, state))
        return peers

    def _is_out_of_contact(self, beats: Beats) -> bool:
        seconds = beats.seconds_without_contact
        return seconds is not None and seconds > self._silent_after

    @property
    def _silent_after(self) -> float:
        return SILENT_INTERVALS * self._options.interval

    def _blame_for_standing_still(self, beats: Beats | None, own: Beat, limit: float) -> None:
        """Ends the run unless some rank is getting on."""
        in_contact = beats is None or beats.read_all(ending.STORE_SECONDS)
        peers = self._peers(beats, own)
        tolerance = (
            2 * self._options.interval
        )  # others began to wait a little later, or their last beat is as old
        if not anyone_moves(peers, limit - tolerance, self._silent_after):
            self._accuse(peers, own, in_contact)

    def _blame(self, beats: Beats, own: Beat) -> None:
        """Ends the run if a peer is gone, or has given no sign of life for some beats."""
        peers, lost_contact = self._peers(beats, own), self._is_out_of_contact(beats)
        if gone(peers) or lost_contact or any(peer.silence > self._silent_after for peer in peers):
            self._accuse(peers, own, not lost_contact)

    def _blame_a_peer(self, beats: Beats) -> None:
        """After an exchange failed: returns if all peers are well."""
        deadline = self._awake + self._silent_after + 2 * self._options.interval
        while self._awake < deadline:
            if beats.end is not None:
                self._obey(beats.end, at_once=True)
            beats.read_all(self._options.interval)  # of a large world only some are read all the time
            self._blame(beats, self._beat())
            sleep(self._options.interval / 4)

    def _accuse(self, peers: list[Peer], own: Beat, in_contact: bool) -> NoReturn:
        verdict = judge(peers, in_contact=in_contact, silent_after=self._silent_after)
        stacks = None
        if self._folder is not None and verdict.kind in ("behind", "busy", "unknown"):
            stacks = str(self._folder.stacks_path((verdict.culprits or [peers[own.rank]])[0].rank))
        text = sentence(verdict, own, own.still, stacks)
        if verdict.kind in ("stopped", "silent"):
            for peer in verdict.culprits:
                if peer.beat is not None and peer.state is not None:  # a process of this machine
                    peer.beat.process.kill()
        self._finish(End(own.rank, self._fault_code(), text, True))

    def _asked_to_stop(self, name: str) -> None:
        """A stop signal: before the first step all processes end at once."""
        if self._place.world_size > 1:
            self._joined.wait(JOIN_SECONDS)  # so that the others hear of it
        with self._ending:
            if self._first_step is None and not self._closed.is_set():
                doing = self.activity.doing.what
                text = f"Stopped by {name} before the first step ({doing}); start again to begin."
                self._end_now(End(self._place.rank, StoppedBySignal.exit_code, text, False))

    def _obey(self, end: End, at_once: bool = False) -> None:
        """Ends as another process said, which has told the user."""
        if not (end.is_fault or at_once):
            self._closed.wait(OBEY_SECONDS)
        if not self._closed.is_set():
            self._finish(end)

    def _fault_code(self) -> int:
        """75 where a restart has gained something: a scheduler that restarts on 75 then never does so for ever."""
        newest = ending.within(ending.DISK_SECONDS, self._progress)
        gained = self._first_step is not None and newest is not None and newest != self._progress_at_start
        return StoppedBySignal.exit_code if gained else PretrainError.exit_code

    def _finish(self, end: End, first_words: str = "") -> NoReturn:
        with self._ending:
            self._end_now(end, first_words)

    def _end_now(self, end: End, first_words: str = "") -> NoReturn:
        """Settles with the others how the run ends, says so if this process is the first, and is gone."""
        folder, is_ours = self._folder, end.rank == self._place.rank
        held = ending.settle(end, self._beats, folder) if is_ours else end
        if held == end and is_ours:
            saved = end.is_fault and ending.within(ending.DISK_SECONDS, self._progress) is not None
            ending.say(f"{first_words}\nerror: {end.sentence}{f' {START_AGAIN}' * saved}".lstrip())
        if folder is not None and held.is_fault:
            rank = self._place.rank
            ending.within(ending.DISK_SECONDS, lambda: folder.write_stacks(rank, held.sentence))
            ending.within(ending.DISK_SECONDS, lambda: folder.write_flight_record(rank, flight_record()))
        for action in self._before_end:
            ending.within(ending.DISK_SECONDS, action)
        self._linger()
        os._exit(held.code)

    def _linger(self) -> None:
        """The store may end with rank 0: the others shall read in it first how the run ends."""
        if self._place.rank == 0 and self._beats is not None:
            sleep(2.5 * self._options.interval)
