# cython: language_level=3, auto_pickle=False
"""The table of forms: which commands and options came with which release, and what becomes of them on a target without.

One place for the stream splitter, which writes the other form (``rewrite.pyx``), and for ``portd check``, which says
beforehand what has none. What a target knows goes on as bytes and costs nothing.

The stream says what was done at the source, so conditions were met, and may be left out. A form is exact: it makes of the
target's value what the command made of the source's. Where plain commands cannot, a small script does, at the same point
of the stream. Releases: the ``since`` and ``history`` fields of the servers' src/commands/*.json; before 7.0, the
release notes.
"""

cimport cython

from portd.kernel.edit cimport DROP

from collections import namedtuple

PLAIN = "plain"
SCRIPT = "script"
VALUES = "values"
NONE = "none"

ALWAYS = (0, 0)
NEVER = (999, 0)

Form = namedtuple("Form", ("name", "redis", "valkey", "becomes"))

# Rows in the order of ``Row``, then those that have no other form.
FORMS = (
    Form("SET KEEPTTL", (6, 0), ALWAYS, SCRIPT),
    Form("SET GET", (6, 2), ALWAYS, PLAIN),
    Form("SET IFEQ", (8, 4), (8, 1), PLAIN),
    Form("SET IFNE, IFDEQ or IFDNE", (8, 4), NEVER, PLAIN),
    Form("MSETEX", (8, 4), (9, 1), PLAIN),
    Form("DELIFEQ", NEVER, (9, 0), PLAIN),
    Form("DELEX", (8, 4), NEVER, PLAIN),
    Form("COPY", (6, 2), ALWAYS, SCRIPT),
    Form("PEXPIREAT with NX, XX, GT or LT", (7, 0), ALWAYS, PLAIN),
    Form("FLUSHALL and FLUSHDB SYNC", (6, 2), ALWAYS, PLAIN),
    Form("LPOP and RPOP with a count", (6, 2), ALWAYS, PLAIN),
    Form("LMOVE", (6, 2), ALWAYS, SCRIPT),
    Form("expiry times of hash fields", (7, 4), (9, 0), VALUES),
    Form("HSETEX", (8, 0), (9, 0), SCRIPT),
    Form("HGETDEL", (8, 0), (9, 1), PLAIN),
    Form("ZADD GT and LT", (6, 2), ALWAYS, SCRIPT),
    Form("ZPOPMIN and ZPOPMAX", (5, 0), ALWAYS, PLAIN),
    Form("ZRANGESTORE", (6, 2), ALWAYS, SCRIPT),
    Form("ZDIFFSTORE", (6, 2), ALWAYS, SCRIPT),
    Form("GEOSEARCHSTORE BYRADIUS", (6, 2), ALWAYS, PLAIN),
    Form("XADD and XTRIM LIMIT", (6, 2), ALWAYS, PLAIN),
    Form("XADD NOMKSTREAM", (6, 2), ALWAYS, PLAIN),
    Form("XADD and XTRIM MINID", (6, 2), ALWAYS, SCRIPT),
    Form("XADD and XTRIM KEEPREF", (8, 2), NEVER, PLAIN),
    Form("XSETID ENTRIESADDED", (7, 0), ALWAYS, PLAIN),
    Form("XDELEX", (8, 2), NEVER, PLAIN),
    Form("XGROUP CREATECONSUMER", (6, 2), ALWAYS, PLAIN),
    Form("XCLAIM of deleted messages", (7, 0), ALWAYS, SCRIPT),
    Form("RESTORE ABSTTL", (5, 0), ALWAYS, PLAIN),
    Form("SPUBLISH", (7, 0), ALWAYS, PLAIN),
    Form("FUNCTION DELETE and FLUSH", (7, 0), ALWAYS, PLAIN),
    Form("BITOP DIFF, DIFF1, ANDOR and ONE", (8, 2), NEVER, SCRIPT),
    Form("XADD and XTRIM DELREF or ACKED", (8, 2), NEVER, SCRIPT),
    Form("XDELEX DELREF or ACKED", (8, 2), NEVER, SCRIPT),
    Form("XACKDEL", (8, 2), NEVER, SCRIPT),
    Form("idempotent producers of streams", (8, 6, 2), NEVER, VALUES),
    Form("HSETEX and HPEXPIREAT with options behind the fields", (8, 6), NEVER, PLAIN),
    Form("GEOSEARCHSTORE BYBOX or ANY", (6, 2), ALWAYS, NONE),
    Form("GEOSEARCHSTORE BYPOLYGON", NEVER, (9, 0), NONE),
)


def lacking(str family not None, tuple version not None):
    """Names of the forms that came later than a release."""
    return frozenset(form.name for form in FORMS if version < (form.valkey if family == "valkey" else form.redis))


@cython.final
cdef class Forms:
    """What one target lacks, for the splitter."""

    def __init__(self, lacks, bint scripts, bint claims):
        cdef int row
        known = {form.name for form in FORMS}
        if not known.issuperset(lacks):
            raise ValueError(f"no such form: {', '.join(sorted(set(lacks) - known))}")
        for row in range(ROWS):
            self.lacks[row] = FORMS[row].name in lacks
        self.scripts = scripts
        self.claims = claims

    cdef dict kinds(self, bint payloads):
        """Kinds of the commands that may need another form, by name; those the target knows whole are not among them.

        Args:
            payloads: it is known which ones the target takes.
        """
        cdef dict found = {b"XADD": F_XADD, b"XTRIM": F_XTRIM, b"MSETEX": F_MSETEX}
        if payloads:
            found[b"RESTORE"] = F_RESTORE
            found[b"RESTORE-ASKING"] = F_RESTORE_ASKING
        if self.lacks[SET_KEEPTTL] or self.lacks[SET_GET] or self.lacks[SET_IFEQ] or self.lacks[SET_IFNE]:
            found[b"SET"] = F_SET
        if self.lacks[DELIFEQ]:
            found[b"DELIFEQ"] = F_DELETE
        if self.lacks[DELEX]:
            found[b"DELEX"] = F_DELETE
        if self.lacks[COPY]:
            found[b"COPY"] = F_COPY
        if self.lacks[FLUSH_SYNC]:
            found[b"FLUSHALL"] = F_FLUSHALL
            found[b"FLUSHDB"] = F_FLUSHDB
        if self.lacks[POP_COUNT]:
            found[b"LPOP"] = F_LPOP
            found[b"RPOP"] = F_RPOP
        if self.lacks[LMOVE]:
            found[b"LMOVE"] = F_LMOVE
        if self.lacks[HSETEX] or self.lacks[FIELDS_LAST]:
            found[b"HSETEX"] = F_HSETEX
        if self.lacks[FIELDS_LAST]:
            found[b"HPEXPIREAT"] = F_FIELDS_LAST
        if self.lacks[HGETDEL]:
            found[b"HGETDEL"] = F_HGETDEL
        if self.lacks[FIELD_EXPIRY]:
            for name in (b"HEXPIRE", b"HPEXPIRE", b"HEXPIREAT", b"HPEXPIREAT", b"HPERSIST"):
                found[name] = F_FIELD_EXPIRY
        return found | self._kinds_of_ordered()

    def _kinds_of_ordered(self):
        """The same of sorted sets, streams, and what is left."""
        cdef dict found = {}
        if self.lacks[ZADD_GT]:
            found[b"ZADD"] = F_ZADD
        if self.lacks[ZPOP]:
            found[b"ZPOPMIN"] = F_ZPOPMIN
            found[b"ZPOPMAX"] = F_ZPOPMAX
        if self.lacks[ZRANGESTORE]:
            found[b"ZRANGESTORE"] = F_ZRANGESTORE
        if self.lacks[ZDIFFSTORE]:
            found[b"ZDIFFSTORE"] = F_ZDIFFSTORE
        if self.lacks[GEOSEARCHSTORE]:
            found[b"GEOSEARCHSTORE"] = F_GEOSEARCHSTORE
        if self.lacks[XSETID_COUNTERS]:
            found[b"XSETID"] = F_XSETID
        if self.lacks[XDELEX]:
            found[b"XDELEX"] = F_XDELEX
        if self.lacks[XGROUP_CREATECONSUMER]:
            found[b"XGROUP"] = F_XGROUP
        if self.lacks[XCLAIM_DELETED] and self.claims and self.scripts:
            found[b"XCLAIM"] = F_XCLAIM
        if self.lacks[XACKDEL]:
            found[b"XACKDEL"] = F_XACKDEL
        if self.lacks[PRODUCERS]:
            found[b"XCFGSET"] = F_PRODUCERS
            found[b"XIDMPRECORD"] = F_PRODUCERS
        if self.lacks[BITOP]:
            found[b"BITOP"] = F_BITOP
        if self.lacks[SPUBLISH]:  # nobody can have subscribed there
            found[b"SPUBLISH"] = DROP
        return found
