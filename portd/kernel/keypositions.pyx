# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Where the keys of a command stand, what becomes of them, and which of them are names of ours.

What is known of a command is a ``Layout``; ``keyspecs.pyx`` has them all. Arguments are looked at as far as they are at
hand: of a command larger than a piece, that is its beginning. Nothing is read beyond them.

Meaning: db.c:getKeysUsingKeySpecs, and what servers have functions for: setGetKeys, bitfieldGetKeys, sortGetKeys,
migrateGetKeys.
"""

from libc.stdint cimport INT32_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, strlen

from portd.kernel.resp cimport LINE_READ, SMALL, read_length, read_number


cdef bint _next(
    const uint8_t** header, const uint8_t* end, const uint8_t** text, Py_ssize_t* size
) noexcept nogil:
    """The argument at *header*, which moves behind it; False when it is not at hand to its end."""
    cdef const uint8_t* cursor = header[0] + 1
    cdef uint64_t announced = 0
    if header[0] >= end or read_length(&cursor, end, &announced) != LINE_READ or announced > <uint64_t> (end - cursor):
        return False
    text[0] = cursor
    size[0] = <Py_ssize_t> announced
    header[0] = cursor + announced + 2
    return True


cdef bint _argument(
    const uint8_t* header, const uint8_t* end, int64_t index, const uint8_t** text, Py_ssize_t* size
) noexcept nogil:
    """The argument at *index* (the name is 0, *header* that of the first one); False when it is not at hand."""
    while index > 0:
        if not _next(&header, end, text, size):
            return False
        index -= 1
    return True


cdef bint _is(const uint8_t* text, Py_ssize_t size, const uint8_t* word, Py_ssize_t length) noexcept nogil:
    """Whether *text* is *word* (upper case) in any letter case."""
    cdef Py_ssize_t i
    cdef uint8_t letter
    if size != length:
        return False
    for i in range(size):
        letter = text[i]
        if c"a" <= letter <= c"z":
            letter -= 32
        if letter != word[i]:
            return False
    return True


cdef bint _says(const uint8_t* text, Py_ssize_t size, const char* word) noexcept nogil:
    return _is(text, size, <const uint8_t*> word, <Py_ssize_t> strlen(word))


# --------------------------------------------------------------------------------------------------- where they are

cdef void find_keys(
    const uint8_t* header, const uint8_t* end, const Layout* layout, int64_t argc, Found* found
) noexcept nogil:
    """Where the keys of a command of *argc* arguments, the name among them, stand."""
    cdef const uint8_t* text = NULL
    cdef Py_ssize_t size = 0
    cdef int i
    found.count = 0
    found.fits = True
    found.known = layout.known
    if layout.subcommand_count:
        found.known = False
        if argc > 1 and _argument(header, end, 1, &text, &size):
            for i in range(layout.subcommand_count):
                if _is(text, size, layout.subcommands[i].word, layout.subcommands[i].size):
                    layout = layout.subcommands[i].layout
                    found.known = True
                    break
    if layout.rule == R_MIGRATE and _migrates_many(header, end, argc, found):
        return
    for i in range(layout.count):
        _find(header, end, &layout.specs[i], argc, found)
    if layout.rule == R_SET and found.count:
        found.ranges[0].use = RW | ACCESS | UPDATE if _says_get(header, end, argc) else OW | UPDATE
    elif layout.rule == R_BITFIELD and found.count and _only_gets(header, end, argc):
        found.ranges[0].use = RO | ACCESS
    elif layout.rule == R_SORT:
        _find_store(header, end, argc, found)


cdef void _add(Found* found, int64_t first, int64_t last, int64_t step, int use, int64_t argc) noexcept nogil:
    cdef Range* keys = &found.ranges[found.count]
    if first < 1 or last < first or last >= argc:
        found.fits = False
        last = min(last, argc - 1)
        if first < 1 or last < first:
            return
    keys.first, keys.last, keys.step, keys.use = first, last, step, use
    found.count += 1


cdef void _find(const uint8_t* header, const uint8_t* end, const Spec* spec, int64_t argc, Found* found) noexcept nogil:
    """The keys that one spec tells of; none where its word does not stand."""
    cdef const uint8_t* text = NULL
    cdef Py_ssize_t size = 0
    cdef int64_t first = spec.begin
    cdef int64_t count = 0
    if spec.size:
        first = _behind(header, end, spec, argc, found)
        if first == 0:
            return
    if spec.counted:
        if first >= argc or not _argument(header, end, first, &text, &size) or size > SMALL:
            found.fits = False
        elif not read_number(text, size, INT32_MAX, &count) or count < 0:
            found.fits = False
        elif count > 0:
            _add(found, first + 1, first + 1 + (count - 1) * spec.step, spec.step, spec.use, argc)
    elif spec.last >= 0:
        _add(found, first, first + spec.last, spec.step, spec.use, argc)
    elif spec.limit > 1:
        _add(found, first, first + (argc - first) // spec.limit + spec.last, spec.step, spec.use, argc)
    elif first != argc + spec.last + 1:  # else there are none, as the sources of a PFMERGE may be
        _add(found, first, argc + spec.last, spec.step, spec.use, argc)


cdef int64_t _behind(
    const uint8_t* header, const uint8_t* end, const Spec* spec, int64_t argc, Found* found
) noexcept nogil:
    """The index behind the word of a spec; 0 when it is not there."""
    cdef const uint8_t* text = NULL
    cdef Py_ssize_t size = 0
    cdef int64_t index = 0
    while index + 2 < argc:  # something stands behind it
        if not _next(&header, end, &text, &size):
            found.fits = False
            return 0
        index += 1
        if index >= spec.begin and _is(text, size, spec.word, spec.size):
            return index + 1
    return 0


cdef bint _says_get(const uint8_t* header, const uint8_t* end, int64_t argc) noexcept nogil:
    """Whether a SET has the option GET (t_string.c:setGetKeys)."""
    cdef const uint8_t* text = NULL
    cdef Py_ssize_t size = 0
    cdef int64_t index = 0
    while index + 1 < argc and _next(&header, end, &text, &size):
        index += 1
        if index > 2 and _says(text, size, "GET"):
            return True
    return False


cdef bint _only_gets(const uint8_t* header, const uint8_t* end, int64_t argc) noexcept nogil:
    """Whether a BITFIELD has no operation that writes (bitops.c:bitfieldGetKeys)."""
    cdef const uint8_t* text = NULL
    cdef Py_ssize_t size = 0
    cdef int64_t index = 1
    cdef int64_t skipped = 0
    if not _next(&header, end, &text, &size):
        return False
    while index + 1 < argc:
        if not _next(&header, end, &text, &size):
            return False
        index += 1
        if skipped > 0:
            skipped -= 1
        elif _says(text, size, "GET"):
            skipped = 2
        elif _says(text, size, "OVERFLOW"):
            skipped = 1
        else:
            return False
    return skipped == 0


cdef void _find_store(const uint8_t* header, const uint8_t* end, int64_t argc, Found* found) noexcept nogil:
    """The destination of a SORT: behind the last STORE (sort.c:sortCommandGeneric, db.c:sortGetKeys)."""
    cdef const uint8_t* text = NULL
    cdef Py_ssize_t size = 0
    cdef int64_t index = 0
    cdef int64_t skipped = 1  # the key
    cdef int64_t store = 0
    while index + 1 < argc:
        if not _next(&header, end, &text, &size):
            found.fits = False
            break
        index += 1
        if skipped > 0:
            skipped -= 1
        elif _says(text, size, "LIMIT"):
            skipped = 2
        elif _says(text, size, "GET") or _says(text, size, "BY"):
            skipped = 1
        elif _says(text, size, "STORE") and index + 1 < argc:
            store = index + 1
            skipped = 1
    if store:
        _add(found, store, store, 1, OW | UPDATE, argc)


cdef bint _migrates_many(const uint8_t* header, const uint8_t* end, int64_t argc, Found* found) noexcept nogil:
    """Finds the keys of a MIGRATE of several (cluster.c:migrateCommand, db.c:migrateGetKeys); False: it is of one."""
    cdef const uint8_t* text = NULL
    cdef Py_ssize_t size = 0
    cdef int64_t index = 0
    cdef int64_t skipped = 0
    while index + 1 < argc:
        if not _next(&header, end, &text, &size):
            found.fits = False
            return False
        index += 1
        if index == 3 and size > 0:
            return False
        if index < 6:
            continue
        if skipped > 0:
            skipped -= 1
        elif _says(text, size, "AUTH"):
            skipped = 1
        elif _says(text, size, "AUTH2"):
            skipped = 2
        elif _says(text, size, "KEYS") and index + 1 < argc:
            _add(found, index + 1, argc - 1, 1, RW | ACCESS | DELETE, argc)
            return True
    return False


# ---------------------------------------------------------------------------------------------------- what is asked

cdef int use_of(const Found* found, int64_t index) noexcept nogil:
    """What the command does to the argument at *index*, as Use; 0: it is no key."""
    cdef int i
    for i in range(found.count):
        if found.ranges[i].first <= index <= found.ranges[i].last:
            if (index - found.ranges[i].first) % found.ranges[i].step == 0:
                return found.ranges[i].use
    return 0


cdef bint is_key(const Found* found, int64_t index) noexcept nogil:
    """Whether the argument at *index* is a key."""
    cdef int use = use_of(found, index)
    return use != 0 and not use & NOT_KEY


cdef bint may_be_key(const Layout* layout, int64_t index, int64_t argc) noexcept nogil:
    """Whether the argument at *index* can be a key, whatever the others say."""
    cdef const Spec* spec
    cdef int i
    if layout.single:
        return index == layout.specs[0].begin
    if layout.rule == R_SORT or layout.rule == R_MIGRATE:
        return index > 2 or index == layout.specs[0].begin
    for i in range(layout.count):
        spec = &layout.specs[i]
        if index < spec.begin or spec.use & NOT_KEY:
            continue
        if spec.size:
            return True
        if spec.counted:
            if index > spec.begin and (index - spec.begin - 1) % spec.step == 0:
                return True
        elif (index - spec.begin) % spec.step == 0:
            if index <= (spec.begin + spec.last if spec.last >= 0 else argc + spec.last):
                return True
    return False


cdef int owned(
    const uint8_t* header, const uint8_t* end, const Layout* layout, int64_t argc, const Ours* ours
) noexcept nogil:
    """Which of the keys of a command, as far as they are at hand before *end*, are ours: an Owned."""
    cdef const uint8_t* text = NULL
    cdef Py_ssize_t size = 0
    cdef int64_t index = 0
    cdef int64_t mine = 0
    cdef int64_t others = 0
    cdef Found found
    find_keys(header, end, layout, argc, &found)
    while index + 1 < argc and _next(&header, end, &text, &size):
        index += 1
        if is_key(&found, index):
            if size >= ours.size and memcmp(text, ours.prefix, ours.size) == 0:
                mine += 1
            else:
                others += 1
    return O_NONE if mine == 0 else O_SOME if others else O_ALL


cdef const uint8_t* first_key(
    const uint8_t* header, const uint8_t* end, const Layout* layout, int64_t argc, Py_ssize_t* size
) noexcept nogil:
    """The first key of a command; NULL when it has none, or it is not at hand."""
    cdef const uint8_t* text = NULL
    cdef int64_t index = INT32_MAX
    cdef Found found
    cdef int i
    find_keys(header, end, layout, argc, &found)
    for i in range(found.count):
        if not found.ranges[i].use & NOT_KEY:
            index = min(index, found.ranges[i].first)
    if index == INT32_MAX or not _argument(header, end, index, &text, size):
        return NULL
    return text
