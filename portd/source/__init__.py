"""The source's side: handshake, receiver, what to do when it is lost."""

from portd.source.handshake import HandshakeOptions
from portd.source.losses import Reason, ReceiverLost
from portd.source.receiver import Receiver, ReceiverOptions, Transfer

__all__ = ["HandshakeOptions", "Reason", "Receiver", "ReceiverLost", "ReceiverOptions", "Transfer"]
