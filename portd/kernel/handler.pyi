"""Base of what consumes the values of a snapshot; see ``handler.pxd`` for what it is told."""

from typing_extensions import disjoint_base

@disjoint_base
class Handler:
    """Hears nothing: with it, a decoder only checks a snapshot and finds its end."""
