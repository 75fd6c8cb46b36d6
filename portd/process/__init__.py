"""The process of `portd sync`: the links that it runs, and what they have in common."""

from portd.process.service import Service

__all__ = ["Service"]
