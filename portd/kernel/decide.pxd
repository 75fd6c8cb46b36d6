# cython: language_level=3
"""What a command becomes, and what must be known for that; the methods are in ``decide.pyx``."""

from libc.stdint cimport int64_t, uint8_t

from portd.kernel.commandtable cimport Row
from portd.kernel.edit cimport Editor
from portd.kernel.keypositions cimport Found, Layout, Ours
from portd.kernel.leftout cimport Exclusions
from portd.kernel.owed cimport Owed
from portd.kernel.project cimport Command, Projector
from portd.kernel.scan cimport CommandScanner


cdef enum Reason:  # why a command is refused
    LACKS
    NAMES_OURS
    WAITS
    UNKNOWN
    CROSSES
    KEYS_UNKNOWN
    OWED_TOO_MANY
    BLOCKED
    PARTED


cdef tuple REASONS  # by Reason: what it is counted as, and why


cdef enum Care:  # why more than the name of a command must be looked at in a database; a sum of these
    C_LACKS = 1  # the target does not have it
    C_BLOCKED = 2  # another one is written to where it would go
    C_RULES = 4  # there are rules, or a mapping


cdef struct Tally:  # what is known behind the last command consumed; copied to go back to an earlier one
    int64_t db
    bint in_transaction
    int care  # a Care, of that database
    bint swaps
    bint getack
    bint moves
    bint overdue
    int64_t postponed
    int64_t lost  # expiry times of hash fields
    int64_t unrecorded  # what streams know of idempotent producers
    int64_t commands  # of the source, without MULTI and EXEC
    int64_t filtered
    int64_t excluded
    int64_t refused
    int64_t own  # that named keys of ours
    int64_t by_key  # of the filtered ones, those that rules do not take, by their keys
    int64_t by_database
    int64_t by_name
    int64_t by_copy
    int64_t projected  # that went on in part
    int64_t crossing  # of the refused ones, those that rules take in part
    int64_t cleared  # that are left to the caller
    int64_t transactions  # EXECs


cdef class Decider(CommandScanner):
    cdef Editor editor
    cdef Tally tally
    cdef bint postpones
    cdef bint entries_read  # the target knows it
    cdef bint unlink  # the target knows it, and lets us
    cdef bint marked  # a transaction was opened in this piece
    cdef Exclusions excluded
    cdef int64_t databases  # of the target; 0: not known
    cdef frozenset lacking  # those it does not have beside
    cdef Projector projector  # of rules and a mapping; None: all keys are taken, and names and databases stay
    cdef int judging  # of a large command: whether its keys still to come must be taken; -1: nobody looks
    cdef Owed owed  # keys whose values the target does not have
    cdef bint may_owe  # the caller copies the values of keys that the target does not have
    cdef bint parted  # the target takes commands of one slot only
    cdef bint ruled  # there are rules, or a mapping
    cdef int64_t clears  # database of the source that the command at the head empties; -1: all
    cdef frozenset trims  # slots of which only that is so; None: all
    cdef Exclusions mixed  # large commands that name keys of ours among others
    cdef Reason reason  # why the command at the head is refused
    # names that are ours alone: none begins in the stream between the head and offset ``ours_at``; there one does if found
    cdef bytes own
    cdef Ours ours
    cdef int64_t ours_at
    cdef bint ours_found
    cdef int64_t selected  # database that the SELECT or SWAPDB at the head names
    cdef int64_t swapped  # the other one of that SWAPDB

    cdef int _kind_at_head(self, bint large) noexcept
    cdef int _refuse(self, Reason reason) noexcept
    cdef bint _lacks(self, int64_t db) noexcept
    cdef int _care(self, int64_t db) noexcept
    cdef int _decide_by_rules(self, int kind, const Row* row, bint large) noexcept
    cdef bint _is_due(self) noexcept
    cdef Reason _crosses(self) noexcept
    cdef int _decide_crossing(self, int fate, const Command* command, const Found* found, bint large) noexcept
    cdef int _decide_by_fate(self, int kind, int fate, bint large) noexcept
    cdef int _decide_flush(self, int kind) noexcept
    cdef int _decide_slots(self, int kind, bint large) noexcept
    cdef int _trim(self) except -100
    cdef bint _flushes_slot(self) noexcept
    cdef int _flush_slot(self) except -100
    cdef int _empty(self, frozenset slots) except -100
    cdef int _hear(self) except -100
    cdef list _slots_named(self)
    cdef const uint8_t* _key_of_letter(self, bint large, int64_t* db, Py_ssize_t* size) noexcept
    cdef void _describe(self, Command* command) noexcept
    cdef int _decide_ruled_swap(self) noexcept
    cdef bint _may_name_ours(self, Py_ssize_t end) noexcept
    cdef int _decide_ours(self, int kind, const Layout* layout, bint large) noexcept
    cdef int _decide(self, int kind, bint large) noexcept
    cdef int _decide_swap(self, bint large) noexcept
    cdef int _decide_by_first(self, int kind, bint large) noexcept
    cdef bint _sets_expiry(self) noexcept
