# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Other forms of what is done to sorted sets, bits and streams."""

from libc.stdint cimport int64_t
from libc.string cimport memcmp

from portd.kernel.forms cimport (
    F_BITOP, F_GEOSEARCHSTORE, F_PRODUCERS, F_XACKDEL, F_XADD, F_XCLAIM, F_XDELEX, F_XGROUP, F_XSETID, F_XTRIM, F_ZADD, F_ZDIFFSTORE,
    F_ZPOPMAX, F_ZPOPMIN, F_ZRANGESTORE, PRODUCERS, XADD_KEEPREF, XADD_LIMIT, XADD_MINID, XADD_NOMKSTREAM, XADD_REFERENCES,
    XDELEX_REFERENCES, Forms,
)
from portd.kernel.formscripts cimport (
    ACKING, BEST_SCORES, BITS, CLAIMING, DELETING, DIFF_STORING, RANGE_STORING, RECORDING, TRIMMING, TRIMMING_REFERENCES,
)
from portd.kernel.formwriter cimport Argument, FormWriter


cdef class OrderedForms(FormWriter):
    cdef int64_t _write_ordered(self, int kind) except -1:
        """As ``Rewriter.write``, for these."""
        if kind == F_ZADD:
            return self._zadd()
        if kind == F_ZPOPMIN or kind == F_ZPOPMAX:
            return self._zpop(kind == F_ZPOPMIN)
        if kind == F_ZRANGESTORE:
            return self._script(RANGE_STORING, 2, 1)
        if kind == F_ZDIFFSTORE:
            return self._script(DIFF_STORING, 1, 1)
        if kind == F_GEOSEARCHSTORE:
            return self._geosearchstore()
        if kind == F_XADD or kind == F_XTRIM:
            return self._xadd(kind == F_XADD)
        if kind == F_XSETID:
            if self.large or self.argc < 5:
                return 0
            self._begin(3, "XSETID")
            self._copy_all(1, 3)
            return self.argc
        if kind == F_XDELEX:
            return self._xdelex()
        if kind == F_XACKDEL:
            return self._xackdel()
        if kind == F_PRODUCERS:
            self.drops = True
            self.unrecorded = 1
            return 0
        if kind == F_BITOP:
            return self._bitop()
        if kind == F_XGROUP:
            return self._xgroup()
        if kind == F_XCLAIM:
            return self._script(CLAIMING, 1, 1)
        return 0

    # ----------------------------------------------------------------------------------------------------- sorted sets

    cdef int64_t _zadd(self) except -1:
        """ZADD with GT or LT: of one member, that was met."""
        cdef bint gt = False
        cdef bint option
        cdef int64_t i = 2
        cdef int64_t at
        cdef int64_t left_out = 0
        while i < self.known:
            option = self._is(i, "GT") or self._is(i, "LT")
            gt |= option
            left_out += option
            if not (option or self._is(i, "NX") or self._is(i, "XX") or self._is(i, "CH") or self._is(i, "INCR")):
                break
            i += 1
        if not gt or i == self.known:
            return 0
        if self.argc - i > 2:
            return self._script(BEST_SCORES, 1, 1)
        self._begin(self.argc - left_out, "ZADD")
        self._copy(1)
        for at in range(2, i):
            if not (self._is(at, "GT") or self._is(at, "LT")):
                self._copy(at)
        return i

    cdef int64_t _zpop(self, bint least) except -1:
        """ZPOPMIN or ZPOPMAX, by rank."""
        cdef int64_t count = 1
        if self.large or self.argc > 3 or (self.argc == 3 and (not self._number(2, &count) or count < 1)):
            return 0
        self._begin(4, "ZREMRANGEBYRANK")
        self._copy(1)
        if least:
            self.buffer.write_word("0")
            self.buffer.write_number(count - 1)
        else:
            self.buffer.write_negative(count)
            self.buffer.write_word("-1")
        return self.argc

    cdef int64_t _geosearchstore(self) except -1:
        """GEOSEARCHSTORE within a radius, as GEORADIUS; that leaves the destination alone when there is no source."""
        cdef int64_t center = 0  # of the arguments that say it
        cdef int64_t radius = 0
        cdef int64_t count = 0
        cdef int64_t order = 0
        cdef int64_t i = 3
        cdef bint member = False
        cdef bint distances = False
        cdef bint here
        while i < self.known:
            if self._begins(i, "FROMMEMBER"):
                member, center = True, i + 1
                i += 1
            elif self._begins(i, "FROMLONLAT"):
                center = i + 1
                i += 2
            elif self._begins(i, "BYRADIUS"):
                radius = i + 1
                i += 2
            elif self._is(i, "ASC") or self._is(i, "DESC"):
                order = i
            elif self._is(i, "COUNT") and not self._is(i + 2, "ANY"):
                count = i + 1
                i += 1
            elif self._begins(i, "STOREDIST"):
                distances = True
            else:
                return 0
            i += 1
        if self.large or i != self.argc or not center or not radius:
            return 0
        here = self._same(1, 2)
        if not here:
            self._begin(2, "UNLINK" if self.unlink else "DEL")
            self._copy(1)
        self._begin(8 - member + (order > 0) + 2 * (count > 0), "GEORADIUSBYMEMBER" if member else "GEORADIUS")
        self._copy(2)
        self._copy_all(center, center + (1 if member else 2))
        self._copy_all(radius, radius + 2)
        if order:
            self._copy(order)
        if count:
            self.buffer.write_word("COUNT")
            self._copy(count)
        self.buffer.write_word("STOREDIST" if distances else "STORE")
        self._copy(1)
        return self.argc

    # ------------------------------------------------------------------------------------------------------------ bits

    cdef int64_t _bitop(self) except -1:
        """The newer ones of BITOP; X & ~Y is X ^ (X & Y), or (X | Y) ^ Y, so the destination can hold what is between."""
        cdef bint diff = self._is(1, "DIFF")
        cdef bint one = self._is(1, "ONE")
        cdef bint mixed = False  # the destination is one of the keys
        cdef int64_t i
        if not (diff or one or self._is(1, "DIFF1") or self._is(1, "ANDOR")) or self.large or self.argc < 4 + (not one):
            return 0
        self._parse(self.header, self.argc, self.argc)
        for i in range(3, self.argc):
            mixed |= self._same(2, i)
        if one and self.argc < 6:
            self._begin(self.argc, "BITOP")
            self.buffer.write_word("OR" if self.argc == 4 else "XOR")
            self._copy_all(2, self.argc)
            return self.argc
        if one or mixed:
            if not self.forms.scripts:
                return 0
            self._begin(self.argc + 2, "EVAL")
            self.buffer.write_argument(<const char*> BITS, len(BITS))
            self.buffer.write_number(self.argc - 2)
            self._copy_all(2, self.argc)
            self._copy(1)
            return self.argc
        if self._is(1, "DIFF1"):
            self._begin(self.argc, "BITOP")
            self.buffer.write_word("OR")
            self._copy_all(2, self.argc)
            return self._bits("XOR")
        self._begin(self.argc - 1, "BITOP")
        self.buffer.write_word("OR")
        self._copy(2)
        self._copy_all(4, self.argc)
        self._bits("AND")
        return self._bits("XOR") if diff else self.argc

    cdef int64_t _bits(self, const char* operation) except -1:
        """Writes BITOP of the first key and the destination, into that."""
        self._begin(5, "BITOP")
        self.buffer.write_word(operation)
        self._copy(2)
        self._copy_all(2, 4)
        return self.argc

    # --------------------------------------------------------------------------------------------------------- streams

    cdef int64_t _xadd(self, bint adds) except -1:
        """XADD or XTRIM without what the target does not know. ``= n LIMIT m`` comes of ``~ n LIMIT m``: n is exact."""
        cdef Forms forms = self.forms
        cdef int64_t maker = 0  # where NOMKSTREAM stands, and the others
        cdef int64_t keeper = 0
        cdef int64_t refers = 0
        cdef int64_t limit = 0
        cdef int64_t strategy = 0
        cdef int64_t least = 0
        cdef int64_t producer = 0
        cdef int64_t behind = 0  # the producer, and its own id of the message
        cdef int64_t i = 2
        cdef int64_t at
        cdef int64_t left_out
        cdef bint exact = True
        while i < self.known:
            if adds and self._begins(i, "NOMKSTREAM"):
                maker = i
            elif self._is(i, "KEEPREF"):
                keeper = i
            elif self._is(i, "DELREF") or self._is(i, "ACKED"):
                refers = i
            elif adds and (self._is(i, "IDMP") or self._is(i, "IDMPAUTO")):
                producer = i
                i += 2 if self._is(i, "IDMP") else 1
                behind = i + 1
            elif not strategy and (self._is(i, "MAXLEN") or self._is(i, "MINID")):
                strategy = i
                exact = not self._is(i + 1, "~")
                i += 1 + (self._is(i + 1, "=") or not exact)
                least = i
            elif strategy and self._is(i, "LIMIT"):
                limit = i
                i += 1
            else:
                break
            i += 1
        if not (strategy or maker or keeper or refers or producer) or i > self.known or i > self.argc - adds:
            return 0
        if producer and self._is(i, "*"):  # the source had the message already, and says so to its replicas
            self.drops = True
            return 0
        if refers and strategy and forms.lacks[XADD_REFERENCES]:
            at = self._trim_by_references(strategy, least, refers, i, adds)
        elif strategy and forms.lacks[XADD_MINID] and self._is(strategy, "MINID"):
            at = self._trim_by_id(least, i, adds)
        else:
            limit = limit if exact or forms.lacks[XADD_LIMIT] else 0
            maker = maker if forms.lacks[XADD_NOMKSTREAM] else 0
            keeper = max(keeper, refers) if forms.lacks[XADD_KEEPREF] else 0
            left_out = 2 * (limit > 0) + (maker > 0) + (keeper > 0) + behind - producer
            if not left_out:
                return 0
            self._begin(self.argc - left_out, "XADD" if adds else "XTRIM")
            self._copy(1)
            for at in range(2, i):
                if at != maker and at != keeper and not (limit and limit <= at <= limit + 1) and not producer <= at < behind:
                    self._copy(at)
            at = i
        return self._record(producer, at, i) if producer and at else at

    cdef int64_t _record(self, int64_t producer, int64_t done, int64_t i) except -1:
        """Says behind an XADD, of which so much is *done*, who sent the message at *i*. IDMP with an id is for replicas alone."""
        if self.forms.lacks[PRODUCERS] or self.large or not self._is(producer, "IDMP"):  # IDMPAUTO: a digest of the server's own
            self.unrecorded = 1
            return done
        self._copy_rest(done)
        if self.forms.scripts:
            self._begin(7, "EVAL")
            self.buffer.write_argument(<const char*> RECORDING, len(RECORDING))
            self.buffer.write_number(1)
        else:
            self._begin(5, "XIDMPRECORD")
        self._copy(1)
        self._copy_all(producer + 1, producer + 3)
        self._copy(i)
        return self.argc

    cdef int _copy_rest(self, int64_t done) except -1:
        """Copies what is behind *done* arguments of a command that is whole."""
        self._parse(self.header, self.argc, self.argc)
        return self._copy_all(done, self.argc)

    cdef int64_t _trim_by_references(self, int64_t strategy, int64_t least, int64_t refers, int64_t i, bint adds) except -1:
        """DELREF or ACKED by a script behind the entry; before it where that is large, and is not trimmed itself."""
        cdef bint first = adds and self.large
        if not self.forms.scripts or (first and (i >= self.known or self._is(least, "0"))):
            return 0
        if first and self._is(strategy, "MINID") and self._is_older(i, least):
            return 0
        if adds and not first:
            self._begin(self.argc - i + 2, "XADD")
            self._copy(1)
            self._copy_rest(i)
        self._begin(8, "EVAL")
        self.buffer.write_argument(<const char*> TRIMMING_REFERENCES, len(TRIMMING_REFERENCES))
        self.buffer.write_number(1)
        self._copy(1)
        self._copy(strategy)
        self._copy(least)
        self._copy(refers)
        self.buffer.write_number(first)
        if not first:
            return self.argc
        self._begin(self.argc - i + 2, "XADD")
        self._copy(1)
        return i

    cdef int64_t _trim_by_id(self, int64_t least, int64_t i, bint adds) except -1:
        """MINID by a script before the entry is added; *least* is where the id stands, *i* what is behind the options."""
        cdef bint outlives = adds and i < self.known and not self._is_older(i, least)
        if not self.forms.scripts or (adds and i >= self.known):
            return 0
        if adds and not outlives:  # the entry itself is trimmed, and so is all before it
            self._begin(self.argc - i + 5, "XADD")
            self._copy(1)
            self.buffer.write_word("MAXLEN")
            self.buffer.write_word("=")
            self.buffer.write_word("0")
            return i
        self._begin(5, "EVAL")
        self.buffer.write_argument(<const char*> TRIMMING, len(TRIMMING))
        self.buffer.write_number(1)
        self._copy(1)
        self._copy(least)
        if not adds:
            return self.argc
        self._begin(self.argc - i + 2, "XADD")
        self._copy(1)
        return i

    cdef bint _is_older(self, int64_t i, int64_t other) noexcept:
        """Whether the id at *i* is before the one at *other*; a missing second half is 0."""
        cdef int64_t half
        cdef int order
        cdef Argument one[2]
        cdef Argument two[2]
        split_id(&self.arguments[i], one)
        split_id(&self.arguments[other], two)
        for half in range(2):
            order = compare_digits(&one[half], &two[half])
            if order != 0:
                return order < 0
        return False

    cdef int64_t _xdelex(self) except -1:
        """XDELEX that leaves pending entries alone, as XDEL."""
        cdef bint refers = self._is(2, "DELREF") or self._is(2, "ACKED")
        cdef int64_t i = 3 if refers or self._is(2, "KEEPREF") else 2
        if not self._is(i, "IDS") or i + 2 >= self.argc or i + 2 > self.known:
            return 0
        if refers:
            return self._script(DELETING, 1, 1) if self.forms.lacks[XDELEX_REFERENCES] else 0
        self._begin(self.argc - i, "XDEL")
        self._copy(1)
        return i + 2

    cdef int64_t _xackdel(self) except -1:
        """XACKDEL: of a single message, that was pending."""
        cdef bint refers = self._is(3, "DELREF") or self._is(3, "ACKED")
        cdef int64_t i = 4 if refers or self._is(3, "KEEPREF") else 3
        if not self._is(i, "IDS") or i + 2 >= self.argc or i + 2 > self.known:
            return 0
        if refers or self.large or i + 3 < self.argc:
            return self._script(ACKING, 1, 1)
        self._begin(4, "XACK")
        self._copy_all(1, 3)
        self._copy(i + 2)
        self._begin(3, "XDEL")
        self._copy(1)
        self._copy(i + 2)
        return self.argc

    cdef int64_t _xgroup(self) except -1:
        """XGROUP CREATECONSUMER: reading what is pending makes the consumer, and changes nothing else."""
        if self.large or self.argc != 5 or not self._begins(1, "CREATECONSUMER"):
            return 0
        self._begin(9, "XREADGROUP")
        self.buffer.write_word("GROUP")
        self._copy_all(3, 5)
        self.buffer.write_word("COUNT")
        self.buffer.write_word("1")
        self.buffer.write_word("STREAMS")
        self._copy(2)
        self.buffer.write_word("0")
        return 5


cdef void split_id(Argument* id, Argument* halves) noexcept:
    """The two numbers of an id, without leading zeros; 0 has no digits."""
    cdef Py_ssize_t dash = 0
    cdef int half
    while dash < id.size and id.text[dash] != c"-":
        dash += 1
    halves[0].text = id.text
    halves[0].size = dash
    halves[1].text = id.text + dash + 1
    halves[1].size = max(id.size - dash - 1, 0)
    for half in range(2):
        while halves[half].size > 0 and halves[half].text[0] == c"0":
            halves[half].text += 1
            halves[half].size -= 1


cdef inline int compare_digits(Argument* one, Argument* two) noexcept:
    if one.size != two.size:
        return -1 if one.size < two.size else 1
    return memcmp(one.text, two.text, one.size)
