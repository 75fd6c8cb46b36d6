# cython: language_level=3
"""Where the keys of a command stand, and what it does to them. *header* is where the first argument behind its name begins."""

from libc.stdint cimport int64_t, uint8_t


cdef enum Use:  # of a key, as servers flag it (server.h: CMD_KEY_*)
    RO = 1  # its value is read
    RW = 2  # changed
    OW = 4  # replaced, whatever it was
    RM = 8  # removed
    ACCESS = 16  # what it holds is answered, copied or used
    UPDATE = 32  # what it holds may change
    INSERT = 64  # something may be added to it
    DELETE = 128  # it, or something in it, may go
    NOT_KEY = 256  # no key: it only has a slot, as a channel has


cdef enum Rule:  # what tells more than the table does
    R_NONE
    R_SET  # reads the old value when it says GET
    R_BITFIELD  # only reads when all it says is GET
    R_SORT  # one more key behind the last STORE
    R_MIGRATE  # all behind KEYS, when the first key is empty


cdef enum:
    MOST_SPECS = 3
    MOST_RANGES = MOST_SPECS + 1  # what a rule finds is one more
    MOST_LETTERS = 16  # of a word that keys stand behind, or of a subcommand


cdef struct Spec:  # where some keys of a command stand
    int use
    int begin  # the first of them, or their number; with a word, where the word is looked for first
    int size  # of that word; 0: there is none
    uint8_t word[MOST_LETTERS]  # upper case
    bint counted  # as many as the argument at ``begin`` says, behind it
    int last  # if not counted: so many behind the first; negative: from the end of the command, -1 the last argument
    int step
    int limit  # more than 1: only one part of so many of what is behind ``begin``


cdef struct Layout:  # of a command's arguments
    bint known  # False: its keys are only guessed
    bint single  # one key, at a place that does not depend on other arguments
    bint pairs  # keys and values in turn, to its end
    Rule rule
    int count
    Spec specs[MOST_SPECS]
    const Subcommand* subcommands
    int subcommand_count  # more than 0: they tell; the specs are a guess for those that nobody knows


cdef struct Subcommand:
    int size
    uint8_t word[MOST_LETTERS]  # upper case
    const Layout* layout


cdef struct Range:  # of arguments, the name is 0
    int64_t first
    int64_t last
    int64_t step
    int use


cdef struct Found:
    bint known  # the command is
    bint fits  # what tells where its keys are is at hand, and all of them are among its arguments
    int count
    Range ranges[MOST_RANGES]


cdef struct Ours:  # names that are ours alone: those that begin with a prefix
    const uint8_t* prefix
    Py_ssize_t size  # 0: there are none


cdef enum Owned:
    O_NONE  # no key of the command is ours
    O_ALL  # all of them are
    O_SOME


cdef void find_keys(
    const uint8_t* header, const uint8_t* end, const Layout* layout, int64_t argc, Found* found
) noexcept nogil
cdef int use_of(const Found* found, int64_t index) noexcept nogil
cdef bint is_key(const Found* found, int64_t index) noexcept nogil
cdef bint may_be_key(const Layout* layout, int64_t index, int64_t argc) noexcept nogil
cdef int owned(
    const uint8_t* header, const uint8_t* end, const Layout* layout, int64_t argc, const Ours* ours
) noexcept nogil
cdef const uint8_t* first_key(
    const uint8_t* header, const uint8_t* end, const Layout* layout, int64_t argc, Py_ssize_t* size
) noexcept nogil
