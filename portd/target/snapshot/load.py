"""What one transaction of a lane holds: batches on their way, and what the target's answers make of them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portd.kernel.batch import OPEN
from portd.kernel.replies import Note
from portd.target.judge import Settlement, settle, without

if TYPE_CHECKING:
    from portd.kernel.batch import Batch
    from portd.kernel.requests import Command


@dataclass(slots=True, eq=False)
class Delivery:
    """A batch on its way; it counts against the budget until its last command is settled.

    Attributes:
        batch: as it was taken.
        data: the commands that still have to pass.
        replies: what they bring.
        failed: keys refused so far.
        filtered: keys left alone so far.
    """

    batch: Batch
    data: bytes
    replies: int
    failed: int = 0
    filtered: int = 0

    @property
    def asks_existence(self) -> bool:
        """It is an OPEN that asks whether the key exists."""
        return self.batch.kind == OPEN and self.data.startswith(b"*2\r\n$6\r\nEXISTS\r\n")


@dataclass(slots=True, eq=False)
class Load:
    """Batches of one database that take effect together, or chunks of one big key.

    Attributes:
        db: their database.
        deliveries: in order; those that are settled leave.
        ordered: chunks of a run: appending is neither idempotent nor commutative.
        sent: it may have taken effect.
        sent_at: seconds of `time.monotonic`.
        trouble: why it is to be sent again, "" when it is not.
    """

    db: int
    deliveries: list[Delivery] = field(default_factory=list)
    ordered: bool = False
    sent: bool = False
    sent_at: float = 0.0
    trouble: str = ""

    def add(self, batch: Batch) -> None:
        """Puts a batch behind the others."""
        self.deliveries.append(Delivery(batch, batch.data, batch.replies))

    @property
    def data(self) -> list[bytes]:
        """What is sent."""
        return [each.data for each in self.deliveries]

    @property
    def size(self) -> int:
        """Bytes that are sent."""
        return sum(len(each.data) for each in self.deliveries)

    @property
    def replies(self) -> int:
        """What that brings."""
        return sum(each.replies for each in self.deliveries)

    @property
    def operations(self) -> int:
        """What it counts for against a limit: its commands, or its keys where a command writes several."""
        return max(self.replies, sum(each.batch.keys for each in self.deliveries))

    @property
    def alone(self) -> bool:
        """It is sent when nothing else is on its way: it is a question, or needs a transaction."""
        return self.ordered or self.deliveries[0].asks_existence

    def by_delivery(self, errors: dict[int, str]) -> list[tuple[Delivery, dict[int, str]]]:
        """Errors by number of the command in the load, as errors by number in each delivery that has some."""
        found: list[tuple[Delivery, dict[int, str]]] = []
        numbers = sorted(errors)
        first = begin = 0
        for delivery in self.deliveries:
            end = bisect_left(numbers, first + delivery.replies, begin)
            if end > begin:
                found.append((delivery, {number - first: errors[number] for number in numbers[begin:end]}))
            first, begin = first + delivery.replies, end
        return found

    def settle(self, errors: dict[int, str], *, skip_existing: bool, resent: bool) -> list[tuple[Delivery, Settlement]]:
        """The transaction ran, and some commands failed in it: what is to be sent again stays, all else is over."""
        settled: list[tuple[Delivery, Settlement]] = []
        for delivery, mine in self.by_delivery(errors):
            notes = [Note(number, -1, text) for number, text in mine.items()]
            outcome = settle(delivery.data, notes, resent=resent, skip_existing=skip_existing)
            delivery.failed += outcome.failed
            delivery.filtered += outcome.filtered
            delivery.data, delivery.replies = outcome.again, outcome.again_replies
            settled.append((delivery, outcome))
        touched = {id(delivery) for delivery, _ in settled}
        for delivery in self.deliveries:
            if id(delivery) not in touched:
                delivery.data, delivery.replies = b"", 0
        return settled

    def leave_out(self, refused: dict[int, str]) -> list[tuple[Delivery, list[tuple[Command, str]]]]:
        """Commands that the target never queues: they go, the others stay to be sent again."""
        gone: list[tuple[Delivery, list[tuple[Command, str]]]] = []
        for delivery, mine in self.by_delivery(refused):
            left = without(delivery.data, delivery.replies, mine)
            delivery.data, delivery.replies = left.data, left.replies
            delivery.failed += left.failed
            gone.append((delivery, left.refused))
        return gone

    def take_over(self) -> list[Delivery]:
        """Takes out what is settled to the end."""
        done = [each for each in self.deliveries if not each.replies]
        self.deliveries = [each for each in self.deliveries if each.replies]
        return done
