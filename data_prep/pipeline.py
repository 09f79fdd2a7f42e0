"""The corpus through the workers into the writer.

    corpus -> chunks -> | documents -> sentences -> ids | -> held-out split -> writer
                        |        worker processes       |

Results come back in the order of the chunks, so that what is written does not depend on the workers. Every few
seconds the state of all that is written becomes durable, and the journal says where to go on.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from data_prep.clock import CpuClock
from data_prep.encode import EncoderSettings
from data_prep.heldout import Assigned, HeldoutSplit, SegmentEnd
from data_prep.journal import Journal
from data_prep.options import BuildOptions
from data_prep.position import Position
from data_prep.progress import Progress
from data_prep.report import Ledger, Timings
from data_prep.sources.corpus import Corpus
from data_prep.stopping import Stopped, StopSignals
from data_prep.task import Encoded, Task, encode_chunk
from data_prep.workers import Workers
from pretrain.data.store import StoreWriter

_SAVE_COST_SHARE = 20  # writing the journal takes at most one part in so many of the time


@dataclass(frozen=True)
class Pipeline:
    """The segments of one build on their way into its writer."""

    options: BuildOptions
    corpus: Corpus
    segments: Sequence[int]
    writer: StoreWriter
    workers: Workers
    progress: Progress
    stop: StopSignals

    def run(
        self, journal: Journal, save: Callable[[Journal], None], save_seconds: float, timings: Timings
    ) -> Ledger:
        """From where the journal ends to the end of the segments; the sums of the whole.

        Raises Stopped at a signal, when the journal says how far all that is written goes.
        """
        ledger, clock = journal.ledger, CpuClock()
        split = HeldoutSplit(self.options.heldout, strict=journal.part is not None)
        # A journal that has got anywhere was written after the split had settled.
        split.is_settled = split.is_settled or journal.bytes_done > 0
        following, bytes_done, pause = journal.position, journal.bytes_done, save_seconds
        start = last_save = time.monotonic()
        self.progress.start("tokenizing", "bytes", journal.bytes_total, bytes_done)
        try:
            for encoded in self._encoded(journal.position, clock):
                if not timings.encoded_bytes:
                    timings.first_result(time.monotonic() - start, encoded.num_bytes)
                # What is written, the sums and the position go together.
                with self.stop.held_back(), clock.timed("write"):
                    self._write_encoded(encoded, following.segment, split, ledger)
                    following = Position(segment=encoded.position.segment, chunk=encoded.position.chunk + 1)
                    bytes_done += encoded.num_bytes
                self.stop.check()
                clock.add(encoded.cpu_seconds)
                timings.encoded_bytes += encoded.num_bytes
                self.progress.advance(encoded.num_bytes, encoded.documents.num_texts)
                began = time.monotonic()
                if began - last_save >= pause and split.is_settled:
                    save(self._journal(journal, following, bytes_done, ledger))
                    last_save = time.monotonic()
                    pause = max(save_seconds, _SAVE_COST_SHARE * (last_save - began))
        except Stopped:
            if split.is_settled and following != journal.position:
                save(self._journal(journal, following, bytes_done, ledger))
            raise
        self._write(split.assign(SegmentEnd()), ledger)
        self._write(split.finish(), ledger)
        timings.cpu_seconds = dict(clock.seconds)
        self.progress.stop()
        return ledger

    def _encoded(self, start: Position, clock: CpuClock) -> Iterator[Encoded]:
        layout = self.writer.layout
        settings = EncoderSettings(
            tokenizer_file=self.writer.tokenizer_path / "tokenizer.json",
            vocab_size=layout.vocab_size,
            unk_id=layout.special_ids.unk,
            forbidden=tuple(sorted(set(layout.all_special_ids) - {layout.special_ids.unk})),
            token_dtype=layout.token_dtype.str,
            sentences=self.options.sentences,
            language=self.options.language,
        )
        function = partial(encode_chunk, settings, self.options.input)
        return self.workers.map_in_order(function, self._tasks(start, clock), str)

    def _tasks(self, start: Position, clock: CpuClock) -> Iterator[Task]:
        for segment in self.segments:
            if segment < start.segment:
                continue
            skipped = start.chunk if segment == start.segment else 0
            chunks = enumerate(self.corpus.chunks(segment))
            while True:
                with clock.timed("cut"):
                    number, chunk = next(islice(chunks, skipped, None), (0, None))
                skipped = 0
                if chunk is None:
                    break
                yield Task(Position(segment=segment, chunk=number), chunk)

    def _write_encoded(self, encoded: Encoded, segment: int, split: HeldoutSplit, ledger: Ledger) -> None:
        """A result, behind the ends of the segments since `segment`, the last one's."""
        for _ in range(segment, encoded.position.segment):
            self._write(split.assign(SegmentEnd()), ledger)
        ledger.encoded(encoded.documents, encoded.intake)
        self._write(split.assign(encoded.documents.hashed), ledger)

    def _write(self, items: Iterable[Assigned | SegmentEnd], ledger: Ledger) -> None:
        for item in items:
            if isinstance(item, SegmentEnd):
                self.writer.end_blocks()
            else:
                self.writer.add(item.split, item.documents)
                ledger.written(item.split, item.documents)

    def _journal(self, journal: Journal, position: Position, bytes_done: int, ledger: Ledger) -> Journal:
        return journal.model_copy(
            update={
                "position": position,
                "bytes_done": bytes_done,
                "ledger": ledger,
                "writer": self.writer.snapshot(),
            }
        )
