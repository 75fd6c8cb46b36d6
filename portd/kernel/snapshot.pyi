"""The snapshot decoder: RDB bytes in, batches of RESP commands out. No I/O, no asyncio."""

from collections.abc import Callable
from typing import Final, Self, final

from typing_extensions import Buffer

from portd.kernel.batch import Batch
from portd.kernel.handler import Handler
from portd.kernel.mapping import Mapping
from portd.kernel.rules import Rules

@final
class SnapshotDecoder:
    """Decodes one RDB snapshot of any version from 1 to 15 or Valkey 80 into batches for a target.

    Given a `Handler` instead of a dialect, it tells that one what it finds; ``next_output`` hands out what it makes.

    ``feed`` copies bytes into a bounded window; ``next_batch`` decodes what is there. An element is consumed only
    when it is whole; one larger than ``chunk_bytes`` is passed on in parts. Nothing larger than
    ``window_bytes`` is ever held.

    Args:
        consumer: what the target understands, for batches of commands; or a handler.
        chunk_bytes: values up to this many bytes are applied whole; larger ones element by element.
        batch_bytes: a batch is cut once it holds this many bytes.
        command_bytes: element commands are cut once they hold this many bytes.
        command_elements: element commands are cut at this many elements.
        skip_existing: keys that the target has are left as they are.
        verify_checksum: compare the CRC64 at the end.
    """

    def __new__(
        cls,
        consumer: Dialect | Handler,
        *,
        chunk_bytes: int = ...,
        batch_bytes: int = ...,
        command_bytes: int = ...,
        command_elements: int = ...,
        skip_existing: bool = ...,
        verify_checksum: bool = ...,
    ) -> Self: ...
    def feed(self, data: Buffer) -> int:
        """Copies bytes into the window; returns how many fitted (0 when ``next_batch`` must run first)."""
    def next_batch(self) -> Batch | None:
        """Decodes until a batch is full or bytes run out.

        Returns:
            The next batch, or None when more bytes are needed or the snapshot has ended (see ``ended``).

        Raises:
            DecodeError: corrupt or unknown bytes; the decoder cannot go on. Batches returned before it are valid.
        """
    def postpone(self, margin_ms: int, shift_ms: int) -> None:
        """From now on, expiry times earlier than *margin_ms* from the moment of decoding are sent *shift_ms* later.

        Keys that expired already among them: the source may have renewed them meanwhile. They count as
        ``keys_postponed``, not as ``keys_expired``. May be called again; a shift of 0 ends it. Times of hash fields are
        not postponed.
        """
    def restrict(self, keys: frozenset[tuple[int, bytes]]) -> None:
        """Writes only these keys, given as database and name; others count as ``keys_filtered``, functions are left out."""
    def choose(
        self,
        rules: Rules | None = None,
        mapping: Mapping | None = None,
        blocked: frozenset[int] = ...,
        own: bytes = b"",
    ) -> None:
        """Tells of some keys only, and under other names; before the first byte is fed.

        Those that are left out count as ``keys_filtered``, and by why (`portd.kernel.rules.REASONS`) as ``filtered_key``
        and so on. Whoever hears of the others is told the target's database and name.

        Args:
            rules: which keys are taken; None: all.
            mapping: where they go; None: they keep database and name.
            blocked: databases of the source in whose place another one is put: their keys are refused.
            own: what names begin with that are left out where keys are mapped; see `spare`.
        """
    def cover(self, covers: Callable[[int, bytes], bool]) -> None:
        """Tells of those keys only of which *covers* says so; before the first byte is fed. The others count as filtered."""
    def sift(self) -> None:
        """Notes what is left out; before the first byte is fed."""
    def take_dropped(self) -> tuple[int, list[tuple[int, int]]]:
        """What was left out since the last call, as beginnings and ends of snapshot offsets, in order; and the offset up to
        which that is known.
        """  # noqa: D205
    def spare(self, prefix: bytes) -> None:
        """Leaves out keys whose names begin with *prefix*, in any database: they are ours alone in the target.

        They count as ``keys_own`` and as ``keys_filtered``.
        """
    def next_output(self) -> object:
        """The same for any handler: decodes until it has something to hand out; None when bytes run out."""
    def finish(self) -> None:
        """Says that no more bytes will come.

        Raises:
            TruncatedSnapshot: the end of the snapshot has not been seen.
        """
    def rest(self) -> bytes:
        """The bytes fed beyond the end of the snapshot (its last byte is the last CRC byte); empties the window."""
    @property
    def ended(self) -> bool:
        """The end mark was seen and the checksum agreed."""
    @property
    def offset(self) -> int:
        """Snapshot bytes consumed so far."""
    @property
    def free(self) -> int:
        """Bytes that ``feed`` would take now."""
    @property
    def window_bytes(self) -> int:
        """Upper bound of all memory this decoder owns, in bytes."""
    @property
    def aux(self) -> dict[str, str]:
        """AUX fields seen so far, by name (``redis-ver``, ``repl-stream-db``, ...)."""
    @property
    def of_cluster_node(self) -> bool:
        """What was seen so far is written by cluster nodes only: Redis from 7.4 on by opcodes, Valkey from 8.0 on by AUX fields."""
    @property
    def current(self) -> CurrentKey | None:
        """The key being decoded, None between keys."""
    def statistics(self) -> dict[str, int]:
        """Counters and owned bytes: see docs/architecture.

        Keys: ``keys`` ``keys_announced`` ``keys_expired`` ``keys_postponed`` ``keys_filtered`` ``keys_own`` (of those)
        ``filtered_key`` ``filtered_db`` ``filtered_slot`` ``filtered_type`` ``filtered_size`` ``filtered_ttl`` (of those)
        ``keys_failed`` ``keys_lacking`` (of those: their database is not there) ``elements`` ``batches``
        ``window_used`` ``window_capacity`` ``blob_capacity`` ``output_used`` ``output_capacity`` ``scratch_capacity``
        ``idle_dropped`` ``freq_dropped`` ``field_ttl_dropped`` ``stream_meta_dropped`` ``functions`` ``db``.
        """
    def take_dead_letters(self) -> list[DeadLetter]:
        """What the decoder found that the target cannot hold, since the last call; bounded, the rest is counted."""
    def take_scripts(self) -> list[bytes]:
        """Texts of scripts that the source has cached, since the last call: 1 MiB, what is beyond that is not told.

        Whether told or not, they go to the target by SCRIPT LOAD where it lets us.
        """

@final
class CurrentKey:
    """A key in the middle of being decoded, for ``/debug/memory``."""

    @property
    def db(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def type(self) -> str: ...
    @property
    def elements_done(self) -> int: ...
    @property
    def elements_total(self) -> int:
        """0 when the encoding does not announce it."""
    @property
    def bytes_done(self) -> int: ...

@final
class DeadLetter:
    """A value that did not reach the target."""

    @property
    def db(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def source_db(self) -> int:
        """Where the source has it; -1: database and name are the same there."""
    @property
    def source_key(self) -> bytes: ...
    @property
    def type(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def reason(self) -> str: ...

@final
class Dialect:
    """What a target understands, as the decoder needs to know it.

    Args:
        valkey: the target belongs to the Valkey family (decides what type numbers from 22 on mean).
        rdb_version: highest RDB version of the target's family it loads (11 or 80 for Valkey, 1..15 for Redis).
        footer: RDB version to write into RESTORE payloads.
        server_version: (major, minor) in the numbering of its family.
        mset: runs of plain strings may go as MSET (standalone target).
        modules: names of the loaded modules.
        commands: lower-case names of the commands the target has and we may run.
        maxmemory_policy: as CONFIG GET says; "" when unknown.
        max_bulk_bytes: largest argument the target takes (proto-max-bulk-len); larger values and elements are left out.
        databases: how many it has; 0: not known. Keys of others are dead letters.
    """

    def __init__(
        self,
        *,
        valkey: bool,
        rdb_version: int,
        footer: int,
        server_version: tuple[int, int],
        mset: bool,
        modules: frozenset[str],
        commands: frozenset[str],
        maxmemory_policy: str,
        max_bulk_bytes: int = ...,
        databases: int = ...,
    ) -> None: ...
    @property
    def valkey(self) -> bool: ...
    @property
    def rdb_version(self) -> int: ...
    @property
    def server_version(self) -> tuple[int, int]: ...
    @property
    def mset(self) -> bool: ...
    @property
    def modules(self) -> frozenset[str]: ...
    @property
    def commands(self) -> frozenset[str]: ...
    @property
    def maxmemory_policy(self) -> str: ...
    @property
    def max_bulk_bytes(self) -> int: ...
    @property
    def databases(self) -> int: ...
    @property
    def footer(self) -> int: ...
    @property
    def pxat(self) -> bool:
        """SET takes PXAT."""

DEFAULT_CHUNK_BYTES: Final[int]
