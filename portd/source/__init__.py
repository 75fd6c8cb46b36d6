"""The source's side: handshake, link, what to do when it is lost."""

from portd.source.handshake import HandshakeOptions
from portd.source.link import Link, LinkOptions, Transfer
from portd.source.losses import Reason, SourceLost

__all__ = ["HandshakeOptions", "Link", "LinkOptions", "Reason", "SourceLost", "Transfer"]
