# cython: language_level=3
"""What is known of commands and their keys; the table is ``keytable.py``."""

from portd.kernel.keypositions cimport Found, Layout, Subcommand


cdef enum Keys:  # numbers of layouts that mean something by themselves
    K_CHANNEL  # no key, but the first argument has a slot
    K_NONE  # no key, and no database either: it is the same whatever is selected, as the one before
    K_DATABASE  # no key, but all those of the database that is selected
    K_UNKNOWN  # nobody knows: the first argument is taken for one
    K_OTHERS  # from here on


cdef class KeySpecs:
    cdef Layout* layouts
    cdef Py_ssize_t layout_count
    cdef Subcommand* subcommands
    cdef Py_ssize_t subcommand_count
    cdef readonly dict numbers  # of layouts, by name in upper case; subcommands stand behind a bar

    cdef int _build(self, dict texts) except -1
    cdef int _build_containers(self, dict containers) except -1
    cdef const Layout* layout_of(self, bytes name)
    cdef Py_ssize_t owned(self) noexcept
    cdef bytes _find(self, arguments, Found* found)


cdef KeySpecs known
