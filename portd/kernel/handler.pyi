"""Base of what consumes the values of a snapshot; see ``handler.pxd`` for what it is told."""

class Handler:
    """Hears nothing: with it, a decoder only checks a snapshot and finds its end."""
