# cython: language_level=3
"""Which forms of commands a target knows; the table is in ``forms.pyx``."""


cdef enum:  # kinds of commands that ``rewrite.pyx`` may give another form; beyond those of ``edit.pxd``
    FORM = 64
    F_SET = 64
    F_MSETEX
    F_RESTORE
    F_RESTORE_ASKING
    F_DELETE  # DELIFEQ, DELEX
    F_COPY
    F_FLUSHALL
    F_FLUSHDB
    F_LPOP
    F_RPOP
    F_LMOVE
    F_HSETEX
    F_HGETDEL
    F_FIELD_EXPIRY
    F_FIELDS_LAST  # HPEXPIREAT
    F_ZADD
    F_ZPOPMIN
    F_ZPOPMAX
    F_ZRANGESTORE
    F_ZDIFFSTORE
    F_GEOSEARCHSTORE
    F_XADD
    F_XTRIM
    F_XSETID
    F_XDELEX
    F_XGROUP
    F_XCLAIM
    F_XACKDEL
    F_PRODUCERS  # XCFGSET, XIDMPRECORD
    F_BITOP


cdef enum:  # rows of the table, in its order
    SET_KEEPTTL = 0
    SET_GET
    SET_IFEQ
    SET_IFNE
    MSETEX
    DELIFEQ
    DELEX
    COPY
    PEXPIREAT_CONDITION
    FLUSH_SYNC
    POP_COUNT
    LMOVE
    FIELD_EXPIRY
    HSETEX
    HGETDEL
    ZADD_GT
    ZPOP
    ZRANGESTORE
    ZDIFFSTORE
    GEOSEARCHSTORE
    XADD_LIMIT
    XADD_NOMKSTREAM
    XADD_MINID
    XADD_KEEPREF
    XSETID_COUNTERS
    XDELEX
    XGROUP_CREATECONSUMER
    XCLAIM_DELETED
    RESTORE_ABSTTL
    SPUBLISH
    FUNCTIONS
    BITOP
    XADD_REFERENCES
    XDELEX_REFERENCES
    XACKDEL
    PRODUCERS
    FIELDS_LAST
    ROWS


cdef class Forms:
    cdef bint lacks[ROWS]
    cdef readonly bint scripts
    cdef readonly bint claims
    cdef dict kinds(self, bint payloads)
