# cython: language_level=3
"""Scripts that do on an older target what a newer command does; the texts are in ``formscripts.pyx``."""

cdef bytes SET_KEEPING
cdef bytes MANY_SETS
cdef bytes COPYING
cdef bytes MOVING
cdef bytes FIELDS
cdef bytes BEST_SCORES
cdef bytes RANGE_STORING
cdef bytes DIFF_STORING
cdef bytes TRIMMING
cdef bytes CLAIMING
cdef bytes CLAIMING_THERE
cdef bytes ACKING
cdef bytes DELETING
cdef bytes TRIMMING_REFERENCES
cdef bytes RECORDING
cdef bytes BITS
