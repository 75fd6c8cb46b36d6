# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What the arguments of a whole command say: whether its expiry or its options may go on as they are.

All are called with a command that was read to its end, so that no length is wrong. *argc* counts the name.
"""

from portd.kernel.resp cimport NEVER_MS, SMALL, argument_behind, is_word, read_number


cdef bint sets_expiry(const uint8_t* header, int64_t argc, bint pxat, bint postpones, int64_t horizon_ms) noexcept:
    """Whether a SET carries an expiry that the target must not be given as it is.

    Args:
        header: see above.
        argc: see above.
        pxat: the target knows PXAT.
        postpones: expiry times before *horizon_ms* are to be sent later than they are.
        horizon_ms: unix time.
    """
    cdef const uint8_t* option
    cdef Py_ssize_t size = 0
    cdef int64_t unit = 0
    cdef int64_t at = 0
    cdef int64_t i
    for i in range(1, argc):
        option = argument_behind(header, &size)
        if unit:  # of the time that follows
            return not read_number(option, size, NEVER_MS // unit, &at) or at * unit < horizon_ms
        if i > 2 and (is_word(option, size, "EX") or is_word(option, size, "PX")):
            return True
        if i > 2 and (is_word(option, size, "EXAT") or is_word(option, size, "PXAT")):
            if not pxat:
                return True
            if postpones:
                unit = 1000 if is_word(option, size, "EXAT") else 1
        header = option + size + 2
    return False


cdef bint tells_entries_read(const uint8_t* header, int64_t argc) noexcept:
    """Whether an XGROUP has ``ENTRIESREAD n``: something that is not MKSTREAM behind the ID."""
    cdef const uint8_t* argument
    cdef Py_ssize_t size = 0
    cdef int64_t i
    for i in range(1, argc):
        argument = argument_behind(header, &size)
        if i > 4 and not is_word(argument, size, "MKSTREAM"):
            return True
        header = argument + size + 2
    return False


cdef inline bint _time_behind_key(const uint8_t* header, int64_t unit, int64_t* at) noexcept:
    """Reads the argument behind the key, of *unit* ms; False when it is no number."""
    cdef Py_ssize_t size = 0
    cdef const uint8_t* argument = argument_behind(header, &size)
    argument = argument_behind(argument + size + 2, &size)
    return read_number(argument, size, NEVER_MS // unit, at)


cdef bint expires_before(const uint8_t* header, int64_t horizon_ms, int64_t unit) noexcept:
    """Whether an EXPIREAT or PEXPIREAT of *unit* ms sets a time before the horizon; also when that is no number."""
    cdef int64_t at = 0
    return not _time_behind_key(header, unit, &at) or at * unit < horizon_ms  # what is wrong is found when it is edited


cdef bint restores_before(const uint8_t* header, int64_t horizon_ms) noexcept:
    """Whether a RESTORE with ABSTTL sets a time before the horizon."""
    cdef int64_t at = 0
    return _time_behind_key(header, 1, &at) and 0 < at < horizon_ms


cdef bint restores_relative(const uint8_t* header, int64_t argc) noexcept:
    """Whether a RESTORE has a TTL and no ABSTTL; also when the TTL is no number: that is refused when it is edited."""
    cdef const uint8_t* argument
    cdef Py_ssize_t size = 0
    cdef int64_t ttl = 0
    cdef int64_t i
    for i in range(1, argc):
        argument = argument_behind(header, &size)
        if i == 2 and (size > SMALL or not read_number(argument, size, NEVER_MS, &ttl)):
            return True
        if i > 3 and is_word(argument, size, "ABSTTL"):
            return False
        header = argument + size + 2
    return ttl > 0
