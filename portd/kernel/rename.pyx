# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Commands under the names and in the databases of the target: keys are renamed, databases have other numbers.

It works on what goes to the target, whatever was made of the source's commands before: other forms for older targets, PEXPIREAT
behind a command, what is left of one. A command that comes in parts is taken on argument by argument; of a key only its
length and its beginning must be at hand, and what is not is held back for the next piece.

Scripts of ours that have keys among their arguments are known by their text (see ``formscripts.pyx``).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport INT32_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from portd.kernel.commandtable cimport Row, look_up
from portd.kernel.edit cimport EVAL, MOVES, SELECT, SWAPDB
from portd.kernel.forms cimport F_COPY
from portd.kernel.formscripts cimport COPYING, DIFF_STORING, MANY_SETS
from portd.kernel.keypositions cimport MOST_RANGES, NOT_KEY, Found, Layout, Range, find_keys, is_key
from portd.kernel.keyspecs cimport K_NONE, KeySpecs
from portd.kernel.mapping cimport Swap
from portd.kernel.resp cimport (
    LINE_READ, SLACK, SMALL, argument_behind, is_word, print_number, read_length, read_number,
)


cdef enum:
    LEAST_OUTPUT = 4096
    KEPT_OUTPUT = 1024 * 1024  # more is given back behind the piece that needed it

cdef bytes PADDING = bytes(SLACK)

# EVAL, the script, how many keys it declares, its arguments
cdef KeySpecs OURS = KeySpecs({b"SETS": "3#/2 OW update", b"DIFFERENCE": "3 OW update; 4# RO access"})


cdef bint _is_script(const uint8_t* text, Py_ssize_t size, bytes script) noexcept:
    return size == PyBytes_GET_SIZE(script) and memcmp(text, PyBytes_AS_STRING(script), size) == 0


cdef const Layout* _layout_of_script(const Layout* layout, const uint8_t* text, Py_ssize_t size) noexcept:
    """Where the keys of an EVAL of a script stand; *layout* is that of others."""
    if _is_script(text, size, MANY_SETS):
        return OURS.layout_of(b"SETS")
    if _is_script(text, size, DIFF_STORING):
        return OURS.layout_of(b"DIFFERENCE")
    return layout


@cython.final
cdef class Renamer:
    def __cinit__(self, Mapping mapping not None, CommandTable table not None):
        cdef Py_ssize_t i
        cdef const Swap* swap
        self.mapping = mapping
        self.table = table
        self.held = b""
        for i in range(mapping.count):
            swap = &mapping.swaps[i]
            self.look = max(self.look, swap.cut)
            self.growth = max(self.growth, swap.size - swap.cut + 2)

    def __dealloc__(self):
        PyMem_Free(self.output)

    cdef Py_ssize_t owned(self) noexcept:
        """Bytes allocated."""
        return self.capacity + PyBytes_GET_SIZE(self.held)

    cdef bytes rename(self, bytes data):
        """What goes to the target for the bytes of a piece; the last command may go on in the next one."""
        cdef const uint8_t* cursor
        cdef const uint8_t* end
        cdef const uint8_t* behind
        cdef bytes padded
        if PyBytes_GET_SIZE(self.held):
            data = self.held + data
            self.held = b""
        padded = data + PADDING
        cursor = <const uint8_t*> PyBytes_AS_STRING(padded)
        end = cursor + PyBytes_GET_SIZE(data)
        self.run = cursor
        self.used = 0
        self.changed = False
        while cursor < end:
            if self.half.argc == 0:
                behind = self._whole(cursor, end)
                if behind != NULL:
                    cursor = behind
                    continue
            behind = self._resume(cursor, end)
            if behind == cursor:  # it needs more of it than is here
                self.held = PyBytes_FromStringAndSize(<const char*> cursor, end - cursor)
                self.changed = True
                break
            cursor = behind
        if not self.changed:
            return data
        self._flush(cursor)
        data = PyBytes_FromStringAndSize(<char*> self.output, self.used)
        if self.capacity > KEPT_OUTPUT:
            PyMem_Free(self.output)
            self.output = NULL
            self.capacity = 0
        return data

    # ------------------------------------------------------------------------------------------------- whole commands

    cdef const uint8_t* _whole(self, const uint8_t* head, const uint8_t* end) except? NULL:
        """Passes on the command at *head*, if all of it is here; what stands behind it, or NULL."""
        cdef const uint8_t* cursor = head + 1
        cdef const uint8_t* name
        cdef const uint8_t* header
        cdef uint64_t argc = 0
        cdef uint64_t size = 0
        cdef uint64_t length = 0
        cdef uint64_t i
        cdef const Row* row
        cdef const Layout* layout
        if read_length(&cursor, end, &argc) != LINE_READ:
            return NULL
        cursor += 1
        if cursor >= end or read_length(&cursor, end, &length) != LINE_READ:
            return NULL
        name = cursor
        if <uint64_t> (end - cursor) < length + 2:
            return NULL
        cursor += length + 2
        header = cursor
        for i in range(argc - 1):
            cursor += 1
            if cursor >= end or read_length(&cursor, end, &size) != LINE_READ or <uint64_t> (end - cursor) < size + 2:
                return NULL
            cursor += size + 2
        row = look_up(&self.table.names, name, <Py_ssize_t> length)
        if argc < 2:
            return cursor
        if row.keys > K_NONE and row.kind != EVAL and row.kind != MOVES and row.kind != F_COPY:
            layout = &self.table.keys.layouts[row.keys]
            if layout.single and layout.specs[0].begin == 1 and not layout.specs[0].use & NOT_KEY:  # most commands come along here
                name = argument_behind(header, <Py_ssize_t*> &size)
                self._key(header, name, <Py_ssize_t> size)
                return cursor
        self._keys(name, <Py_ssize_t> length, row, header, cursor, <int64_t> argc)
        return cursor

    cdef int _keys(
        self, const uint8_t* name, Py_ssize_t size, const Row* row, const uint8_t* header, const uint8_t* end, int64_t argc
    ) except -1:
        """Passes on the arguments of a whole command whose first one is at *header*."""
        cdef const Layout* layout = &self.table.keys.layouts[row.keys]
        cdef const uint8_t* text
        cdef Py_ssize_t length = 0
        cdef int64_t index
        cdef int64_t option = 0  # DB is looked for from this argument on
        cdef bint numbers = row.kind == SELECT or row.kind == SWAPDB
        cdef bint number = numbers
        cdef bint moves = row.kind == MOVES and is_word(name, size, "MOVE")
        if is_word(name, size, "COPY"):
            option = 3
        elif row.kind == EVAL:
            text = argument_behind(header, &length)
            layout = _layout_of_script(layout, text, length)
            option = 5 if _is_script(text, length, COPYING) else 0
        self.found.count = 0
        if layout.count:
            find_keys(header, end, layout, argc, &self.found)
        for index in range(1, argc):
            text = argument_behind(header, &length)
            if number or (moves and index == 2):
                self._number(header, text, length)
                number = numbers
            elif is_key(&self.found, index):
                self._key(header, text, length)
            elif option and index >= option:
                number = is_word(text, length, "DB")
            header = text + length + 2
        return 0

    # ---------------------------------------------------------------------------------------------------- in parts

    cdef const uint8_t* _resume(self, const uint8_t* cursor, const uint8_t* end) except? NULL:
        """Passes on what can be of the command at *cursor*, or the rest of it; what stands behind that."""
        cdef Half* half = &self.half
        cdef const uint8_t* header
        cdef const uint8_t* behind
        cdef uint64_t size = 0
        if half.argc == 0:
            header = cursor + 1
            if read_length(&header, end, &size) != LINE_READ:
                return cursor
            half.argc = <int64_t> size
            half.index = half.left = 0
            half.layout = NULL
            self.found.count = 0
            cursor = header
        while True:
            if half.left > 0:
                size = <uint64_t> min(half.left, end - cursor)
                cursor += size
                half.left -= size
                if half.left > 0:
                    return cursor
                half.index += 1
            if half.index == half.argc:
                half.argc = 0
                return cursor
            header = cursor + 1
            if cursor >= end or read_length(&header, end, &size) != LINE_READ:
                return cursor
            behind = self._argument(cursor, header, <Py_ssize_t> size, end)
            if behind == NULL:
                return cursor
            half.left = <int64_t> size + 2 - (behind - header)
            cursor = behind

    cdef const uint8_t* _argument(
        self, const uint8_t* header, const uint8_t* text, Py_ssize_t size, const uint8_t* end
    ) except? NULL:
        """Passes on the argument at *header* as far as it must be looked at; what is behind that. NULL: more of it is needed."""
        cdef Half* half = &self.half
        cdef const Row* row
        if half.index == 0:
            if end - text < size:
                return NULL
            row = look_up(&self.table.names, text, size)
            half.script = row.kind == EVAL
            half.layout = &self.table.keys.layouts[row.keys]
            self._begin()
        elif half.script and half.index == 1:
            if size == PyBytes_GET_SIZE(MANY_SETS) or size == PyBytes_GET_SIZE(DIFF_STORING):
                if end - text < size:
                    return NULL
                half.layout = _layout_of_script(half.layout, text, size)
                self._begin()
        elif self._counts():
            if size <= SMALL and end - text < size:
                return NULL
            self._count(text, size)
        elif is_key(&self.found, half.index):
            if end - text < min(size, self.look):
                return NULL
            return self._key(header, text, size)
        return text

    cdef int _begin(self) noexcept:
        """Finds the keys whose places do not depend on other arguments; `_count` finds those that are counted."""
        self.found.count = 0
        if self.half.layout.count:
            find_keys(NULL, NULL, self.half.layout, self.half.argc, &self.found)
        return 0

    cdef bint _counts(self) noexcept:
        """Whether the next argument says how many keys follow."""
        cdef const Layout* layout = self.half.layout
        cdef int i
        for i in range(layout.count):
            if layout.specs[i].counted and not layout.specs[i].size and layout.specs[i].begin == self.half.index:
                return True
        return False

    cdef int _count(self, const uint8_t* text, Py_ssize_t size) noexcept:
        """Notes where the keys stand that the argument at *text* counts."""
        cdef const Layout* layout = self.half.layout
        cdef int64_t first = self.half.index + 1
        cdef int64_t count = 0
        cdef Range* keys
        cdef int i
        if size > SMALL or not read_number(text, size, INT32_MAX, &count) or count <= 0:
            return 0
        for i in range(layout.count):
            if layout.specs[i].counted and layout.specs[i].begin == self.half.index and self.found.count < MOST_RANGES:
                keys = &self.found.ranges[self.found.count]
                keys.first = first
                keys.step = layout.specs[i].step
                keys.last = min(first + (count - 1) * keys.step, self.half.argc - 1)
                keys.use = layout.specs[i].use
                self.found.count += 1
        return 0

    # ------------------------------------------------------------------------------------------------------ what is written

    cdef const uint8_t* _key(self, const uint8_t* header, const uint8_t* text, Py_ssize_t size) except NULL:
        """Passes on the beginning of a key, whose rest goes on as it came; where that begins."""
        cdef const Swap* swap = self.mapping.find(text, size)
        if swap == NULL:
            return text
        self._flush(header)
        self._append_length(size - swap.cut + swap.size)
        self._append(swap.new, swap.size)
        self.run = text + swap.cut
        return self.run

    cdef int _number(self, const uint8_t* header, const uint8_t* text, Py_ssize_t size) except -1:
        """Passes on the number of a database."""
        cdef int64_t db = -1
        cdef char digits[20]
        cdef Py_ssize_t start
        if not read_number(text, size, INT32_MAX, &db) or db < 0:
            return 0
        start = print_number(self.mapping.database(db), digits, 20)
        self._flush(header)
        self._append_length(20 - start)
        self._append(digits + start, 20 - start)
        self.run = text + size
        return 0

    cdef int _flush(self, const uint8_t* end) except -1:
        """Writes what goes on as it came up to *end*."""
        self.changed = True
        self._append(self.run, end - self.run)
        self.run = end
        return 0

    cdef int _append(self, const void* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t wanted = self.used + size
        cdef uint8_t* grown
        if size == 0:
            return 0
        if wanted > self.capacity:
            wanted = max(wanted, 2 * self.capacity, LEAST_OUTPUT)
            grown = <uint8_t*> PyMem_Realloc(self.output, wanted)
            if grown == NULL:
                raise MemoryError
            self.output = grown
            self.capacity = wanted
        memcpy(self.output + self.used, data, size)
        self.used += size
        return 0

    cdef int _append_length(self, Py_ssize_t size) except -1:
        cdef char text[24]
        cdef Py_ssize_t start = print_number(size, text, 22) - 1
        text[start] = c"$"
        text[22] = c"\r"
        text[23] = c"\n"
        return self._append(text + start, 24 - start)
