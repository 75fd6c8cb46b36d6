# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What is known of commands and their keys: a layout for each name.

``keytable.py`` says it in words, which servers' COMMAND wrote; what a server says of others may come on top. A text is
``none``, ``database`` or ``channel``, or places of keys with semicolons between them, each followed by what becomes of it:

    1                the first argument
    1:-1/2           from the first one to the last, every second one
    1:0              the same as 1; behind the colon stands how far the last one is from the first
    2#               the second one says how many keys follow it
    STREAMS@1:-1%2   behind the word STREAMS, looked for from the first argument on: the first half of what stands there

Four commands say more by their options than a table can hold: ``RULES``.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset

import re

from portd.kernel.keypositions cimport (
    ACCESS, DELETE, INSERT, MOST_LETTERS, MOST_SPECS, NOT_KEY, OW, R_BITFIELD, R_MIGRATE, R_NONE, R_SET, R_SORT, RM, RO, RW, UPDATE,
    Found, Layout, Spec, Subcommand, find_keys, use_of,
)
from portd.kernel.keytable import TABLE as _TABLE
from portd.kernel.resp cimport argument_behind
from portd.kernel.slots cimport slot_of

USES = {
    "RO": RO, "RW": RW, "OW": OW, "RM": RM, "access": ACCESS, "update": UPDATE, "insert": INSERT, "delete": DELETE,
    "not_key": NOT_KEY,
}

cdef dict RULES = {
    b"SET": R_SET,  # whether it reads depends on GET
    b"BITFIELD": R_BITFIELD,  # it writes unless all its operations are GET
    b"SORT": R_SORT,  # STORE may stand among patterns that are called so, and the last one counts
    b"MIGRATE": R_MIGRATE,  # one key, or many behind KEYS, which may be a password
}

cdef dict WORDS = {"channel": K_CHANNEL, "none": K_NONE, "database": K_DATABASE}

cdef object PLACE = re.compile(
    r"(?:(?P<word>[A-Z]+)@)?(?P<begin>\d{1,3})(?:(?P<counted>#)|:(?P<last>-?\d{1,3}))?"
    r"(?:/(?P<step>[1-9]\d{0,2}))?(?:%(?P<limit>\d{1,3}))?(?P<uses>(?: \w+)+)"
)


cdef int _fill(Layout* layout, str text) except -1:
    """Reads a text into a layout."""
    cdef Spec* spec
    cdef list places = text.split("; ")
    cdef bytes word
    if len(places) > MOST_SPECS:
        raise ValueError(f"{text!r} has more than {MOST_SPECS} places")
    layout.known = True
    for place in places:
        found = PLACE.fullmatch(place)
        if found is None or not found["uses"].split()[0] in USES:
            raise ValueError(f"{place!r} does not say where keys are")
        spec = &layout.specs[layout.count]
        layout.count += 1
        word = (found["word"] or "").encode()
        if len(word) > MOST_LETTERS or int(found["begin"]) == 0:
            raise ValueError(f"{place!r} does not say where keys are")
        spec.size = <int> len(word)
        memcpy(spec.word, PyBytes_AS_STRING(word), spec.size)
        spec.begin = int(found["begin"])
        spec.counted = found["counted"] is not None
        spec.last = int(found["last"] or 0)
        spec.step = int(found["step"] or 1)
        spec.limit = int(found["limit"] or 0)
        for use in found["uses"].split():
            spec.use |= <int> USES.get(use, 0)
    spec = &layout.specs[0]
    if layout.count == 1 and not spec.size and not spec.counted:
        layout.single = spec.last == 0
        layout.pairs = spec.begin == 1 and spec.last == -1 and spec.step == 2
    return 0


cdef bint _readable(str text) except -1:
    cdef Layout layout
    memset(&layout, 0, sizeof(Layout))
    try:
        _fill(&layout, text)
    except ValueError:
        return False
    return True


@cython.final
cdef class KeySpecs:
    def __cinit__(self, told=None):
        cdef dict texts = {
            name.encode(): text for text, names in _TABLE.items() for name in names.split()
        }
        for name, text in (told or {}).items():
            if text == "none":
                text = "database"  # whether it needs the one that is selected nobody says
            if text in WORDS or _readable(text):
                texts.setdefault(name.upper(), text)
        self.numbers = {}
        self._build(texts)

    def __dealloc__(self):
        PyMem_Free(self.layouts)
        PyMem_Free(self.subcommands)

    cdef int _build(self, dict texts) except -1:
        cdef dict containers = {}
        cdef dict numbers = {}  # by text and rule
        cdef Layout* layout
        for name in texts:
            container, bar, _ = name.partition(b"|")
            if bar and len(name) - len(container) - 1 <= MOST_LETTERS:
                containers.setdefault(container, []).append(name)
        self.layout_count = K_OTHERS + len({(text, RULES.get(name)) for name, text in texts.items()}) + len(containers)
        self.layouts = <Layout*> PyMem_Calloc(self.layout_count, sizeof(Layout))
        if self.layouts == NULL:
            raise MemoryError
        _fill(&self.layouts[<int> K_CHANNEL], "1 not_key")
        _fill(&self.layouts[<int> K_UNKNOWN], "1 RW access update")
        self.layouts[<int> K_UNKNOWN].known = False
        self.layouts[<int> K_NONE].known = self.layouts[<int> K_DATABASE].known = True
        number = <int> K_OTHERS
        for name, text in texts.items():
            rule = RULES.get(name, R_NONE)
            if text in WORDS:
                self.numbers[name] = WORDS[text]
            elif (text, rule) in numbers:
                self.numbers[name] = numbers[text, rule]
            else:
                layout = &self.layouts[<int> number]
                _fill(layout, text)
                layout.rule = rule
                layout.single = layout.single and rule != R_SORT and rule != R_MIGRATE
                self.numbers[name] = numbers[text, rule] = number
                number += 1
        for container in containers:
            self.numbers[container] = number
            number += 1
        return self._build_containers(containers)

    cdef int _build_containers(self, dict containers) except -1:
        cdef Layout* layout
        cdef const Layout* one
        cdef Subcommand* sub
        cdef bytes word
        self.subcommand_count = sum(map(len, containers.values())) + 1
        self.subcommands = <Subcommand*> PyMem_Calloc(self.subcommand_count, sizeof(Subcommand))
        if self.subcommands == NULL:
            raise MemoryError
        sub = self.subcommands
        for container, names in containers.items():
            layout = &self.layouts[<int> self.numbers[container]]
            layout.subcommands = sub
            layout.subcommand_count = <int> len(names)
            for name in names:
                one = &self.layouts[<int> self.numbers[name]]
                word = name[len(container) + 1:]
                sub.size = <int> len(word)
                memcpy(sub.word, PyBytes_AS_STRING(word), sub.size)
                sub.layout = one
                sub += 1
                if one.count and not layout.count:
                    layout.count, layout.single = 1, one.single
                    layout.specs[0] = one.specs[0]
        return 0

    cdef const Layout* layout_of(self, bytes name):
        """Of a command, by its name in upper case."""
        return &self.layouts[<int> self.numbers.get(name, K_UNKNOWN)]

    cdef Py_ssize_t owned(self) noexcept:
        """Bytes allocated."""
        return self.layout_count * <Py_ssize_t> sizeof(Layout) + self.subcommand_count * <Py_ssize_t> sizeof(Subcommand)

    def knows(self, bytes name not None):
        return name.upper() in self.numbers

    def places(self, arguments not None):
        cdef Found found
        cdef bytes data = self._find(arguments, &found)
        cdef int64_t index
        if data is None:
            return None
        return [
            (index, use_of(&found, index)) for index in range(1, len(arguments))
            if use_of(&found, index) and not use_of(&found, index) & NOT_KEY
        ]

    def slots(self, arguments not None):
        cdef Found found
        cdef bytes data = self._find(arguments, &found)
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        cdef int64_t index
        if data is None:
            return None
        slots = set()
        text = <const uint8_t*> PyBytes_AS_STRING(data)
        for index in range(1, len(arguments)):
            text = argument_behind(text, &size)
            if use_of(&found, index):
                slots.add(slot_of(text, size))
            text += size + 2
        return frozenset(slots)

    cdef bytes _find(self, arguments, Found* found):
        """Finds the keys; the arguments behind the name as a server sends them, or None where nobody knows the command."""
        cdef bytes data = b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments[1:]])
        cdef const uint8_t* header = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef const Layout* layout = self.layout_of(arguments[0].upper())
        find_keys(header, header + PyBytes_GET_SIZE(data), layout, len(arguments), found)
        if not found.known:
            return None
        if not found.fits:
            raise ValueError("the arguments do not say where its keys are")
        return data


known = KeySpecs()
KNOWN = known
