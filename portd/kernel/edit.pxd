# cython: language_level=3
"""The editor: passes one command on argument by argument. The methods are in ``edit.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from portd.kernel.dialect cimport Dialect
from portd.kernel.keypositions cimport Found, Layout, Ours
from portd.kernel.piecebuffer cimport PieceBuffer
from portd.kernel.project cimport Projector


cdef enum Kind:  # what becomes of a command; those from FUNCTION on are edited argument by argument
    FORWARD = 0  # goes on as it came
    DROP  # noise: left out and counted, as the next nine are
    FILTERED  # not for the target: counted, and its name is told
    OWN  # names keys that are ours alone
    BY_KEY  # rules do not take its keys
    BY_DATABASE  # nor its database
    BY_NAME  # somebody does not want this command
    BY_COPY  # what it does is in a copy that the source is asked for
    EXCLUDED  # the caller said so
    REFUSED  # cannot be written there: a dead letter
    MULTI
    EXEC
    DISCARD
    SELECT
    SWAPDB
    BLOCKING  # waits for data: refused
    STRANGE  # of a name that nobody knows: refused
    MOVES  # takes an expiry from one key to another, goes on as it came
    FLUSHES  # removes what is in one or all databases, goes on as it came
    REPLCONF
    PUBLISH
    CLEARS  # removes what rules cover of one or all databases, or of slots: the caller does it
    TRIMS  # a node has no key of some slots any more
    TELLS  # of slots that move
    SPARED  # goes on without the keys that are ours, or not taken
    HALVED  # only takes something away: where it goes is not taken
    SPLIT  # becomes two commands: what it takes away, and what it adds elsewhere
    SCATTERED  # large, and does the same to each of its keys: each that is taken becomes a command
    DEL  # goes on as UNLINK; edited only when it is large
    EVAL  # goes on as it came, and is noted
    EVALSHA
    SCRIPT  # noted, and left out as DROP
    FUNCTION
    FUNCTION_RESTORE
    XGROUP
    SET
    SETEX
    PSETEX
    GETEX
    EXPIRE
    PEXPIRE
    HEXPIRE
    HPEXPIRE
    EXPIREAT
    PEXPIREAT
    RESTORE
    RESTORE_ASKING


cdef struct Part:  # the command that is passed on argument by argument
    int kind  # -1: there is none
    int64_t argc
    int64_t index  # arguments done
    int64_t kept  # arguments behind the first so many are left out
    int64_t offset  # replication offset of its first byte
    int64_t left  # bytes of the argument at the head still to come, CRLF included; 0: a header is next
    int64_t now_ms  # when its first byte came
    int64_t unit  # ms per unit of the time to rewrite; 0: none was announced yet
    bint relative  # that time counts from ``now_ms``
    bint ignores_next  # the next argument belongs to an option
    bint late  # PEXPIREAT behind the command makes its expiry absolute
    int64_t expires_at  # unix ms to say behind the command; 0: nothing to say
    bint bare  # a RESTORE without options but REPLACE, whose expiry is said behind it
    int64_t payload  # number of the argument that may need another footer; 0: there is none
    bint footed  # that argument is at the head, and long enough for a footer
    uint64_t crc  # of as much of it as was passed on
    const Layout* keys  # where its keys stand; NULL where nobody wants to know
    bint judged  # its keys are in ``found``, and each is looked at
    bint expected  # whether they are taken: all or none
    int64_t step  # SCATTERED: arguments for each key
    bint passing  # SCATTERED: the key at hand is taken
    int64_t taken  # SCATTERED: so many keys were


cdef class Editor:
    cdef PieceBuffer buffer
    cdef bint pxat
    cdef Dialect dialect  # of the target; None: payloads go on as they came
    cdef Ours* ours  # names that are ours alone
    cdef int64_t mixed  # offset of a part of which a key is ours that was not at hand at its beginning; 0: none
    cdef bint conditions  # PEXPIREAT takes NX, XX, GT and LT
    cdef Part part
    cdef Projector projector  # None: all keys are taken
    cdef Found found
    cdef bint unlink  # the target knows it, and lets us
    cdef uint8_t* key  # of a ``late`` part
    cdef Py_ssize_t key_size  # -1: it was too large to keep
    cdef Py_ssize_t key_capacity
    cdef int64_t relative_kept
    # expiry times before ``horizon_ms`` (unix ms; 0: none) go on ``shift_ms`` later
    cdef int64_t horizon_ms
    cdef int64_t shift_ms
    cdef int64_t postponed  # expiry times of the part
    cdef bint overdue  # one of them had passed when it was received

    cdef int begin(self, int kind, int64_t argc, Py_ssize_t end, bint large, bint relative) except -1
    cdef void watch(self, const Layout* keys) noexcept
    cdef void judge(self, bint expected) noexcept
    cdef void scatter(self, int64_t step) noexcept
    cdef int resume(self, int64_t argc, int64_t index) noexcept
    cdef int64_t postpone_from(self, int64_t at, int64_t now_ms) noexcept
    cdef int advance(self, Py_ssize_t limit) except -1
    cdef bint passes(self) noexcept
    cdef int64_t postpone(self, int64_t at) noexcept
    cdef int _write_beginning(self, Py_ssize_t end) except -1
    cdef int _consume(self, Py_ssize_t end) except -1
    cdef int _pass_bytes(self, Py_ssize_t limit) except -1
    cdef int _pass_payload(self, Py_ssize_t limit) except -1
    cdef int _next_argument(self) except -1
    cdef int _judge(self, const uint8_t* text, uint64_t size) noexcept
    cdef int _scatter(self, Py_ssize_t payload, uint64_t size) except -1
    cdef int _end_argument(self) except -1
    cdef bint _looks_at(self, uint64_t size) noexcept
    cdef int _look(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int _keep_key(self, Py_ssize_t payload, Py_ssize_t size) except -1
    cdef int _look_at_set_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int _look_at_getex_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int _look_at_time(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int _finish(self) except -1
