"""The rules of a link: those by which the data in the target was made, and narrower ones that follow them while it runs.

Narrower rules wait until the stream is followed, and are taken up between two of its transactions: the checkpoint says by which
rules the data was made, and gets their digest in one transaction that says how far the stream was then. What was applied before
was made by wider rules, so that nothing is missing; keys that are not taken any more stay as they are.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from portd.config.choices import OnRulesChange
from portd.config.narrowing import widened
from portd.config.rules import changed, choice_of, digest_of
from portd.errors import ConfigError
from portd.log import get_logger
from portd.net.topology import read_written, spelled, written
from portd.target.kept import narrowings
from portd.target.kept.checkpoint import BLURRED, read_checkpoint
from portd.target.kept.images import claim, note
from portd.target.kept.neighbours import Neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.net.topology import Ranges
    from portd.target.kept.checkpoint import Checkpoint

log = get_logger("sync")


@dataclass(slots=True, eq=False)
class Narrower:
    """Rules that are to follow those in force.

    Attributes:
        settings: of the link, with them.
        choice: what they mean.
        taken: the offset from which on they are in force; it is there when they are.
        of_slots: they differ in slots of the source, and may take more.
        by_copy: they are in force when everything is copied again, and not before.
    """

    settings: Settings
    choice: Choice
    of_slots: bool = False
    by_copy: bool = False
    taken: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Ruling:
    """What rules are in force.

    Args:
        settings: of the link.
        neighbours: tells of other links in the target; shared with other links of the process.

    Attributes:
        settings: of the link, as they are by now.
        choice: what their rules mean.
    """

    def __init__(self, settings: Settings, neighbours: Neighbours | None = None) -> None:
        self.settings = settings
        self.choice = choice_of(settings, settings.checkpoint_key)
        self._neighbours = neighbours or Neighbours()
        self._next: Narrower | None = None
        self._earlier: list[Narrower] = []  # that another one overtook before they were in force
        self._follower: Callable[[Narrower], None] | None = None
        self._asking = asyncio.Lock()  # held while others are made of the newest
        self._followed = ""  # digest of rules by which the data was made, and which those in force are known to follow

    @property
    def newest(self) -> Settings:
        """Of the link, as they are to be."""
        return self._next.settings if self._next is not None else self.settings

    @property
    def newest_choice(self) -> Choice:
        """What a full sync that begins now is made by."""
        return self._next.choice if self._next is not None else self.choice

    # -- at the start

    def refuse_collisions(self, used: Iterable[int]) -> None:
        """Makes sure that no two databases go into one, unless that was asked for.

        Raises:
            ConfigError: two do, and both hold keys.
        """
        for db in self.choice.blocked.intersection(used):
            others = [each for each in used if each != db and self.choice.database_to(each) == db]
            if others:
                raise ConfigError(
                    f"map_db puts database {others[0]} into {db}, and the source has keys in its database {db}, too",
                    hint=f"say where that one goes (map_db {db}=N), leave it out (exclude_db {db}), or set map_db_many",
                )

    def require_databases(self, used: Iterable[int], there: int, *, stops: bool) -> None:
        """Makes sure that the target has every database that keys go to, as far as both ends tell.

        Args:
            used: databases of the source that hold keys.
            there: how many the target has; 0 where that is not known.
            stops: the policy is to stop at what the target cannot have.

        Raises:
            ConfigError: it has not, and the policy is to stop.
        """
        choice = self.choice
        taken = [each for each in used if choice.rules is None or choice.rules.takes_database(each)]
        highest = max(map(choice.database_to, taken), default=-1)
        if not 0 < there <= highest:
            return
        told = f"the source has keys for database {highest}, the target has only {there} databases"
        if stops:
            raise ConfigError(
                told, hint=f"set databases to {highest + 1} or more at the target, or --on-refusal continue"
            )
        log.warning(told, hint="what belongs into databases that the target lacks becomes dead letters")

    async def look(self) -> None:
        """Lets rules pass by which the data in the target was made, and no other link makes the same keys.

        Raises:
            ConfigError: they are others.
            TargetError: it cannot be asked.
        """
        settings, choice = self.settings, self.choice
        checkpoint = await read_checkpoint(settings.target_endpoint(), settings.checkpoint_name())
        words = await self.others(checkpoint)
        if words:
            log.warning("the rules are others than those of the data in the target: a full sync", changed=words)
        thorough = words != "" or checkpoint is None
        await claim(settings, choice.image, self._neighbours, ruled=bool(choice), thorough=thorough)

    async def others(self, checkpoint: Checkpoint | None) -> str:
        """What of the rules is another one than when the data beside a checkpoint was made; "" when nothing is.

        Raises:
            ConfigError: something is, and that is refused.
            TargetError: the target cannot be asked.
        """
        if checkpoint is None or self.made(checkpoint):
            return ""
        if self.settings.shard_of and await narrowings.follow(self.settings, checkpoint.rules, self.choice.digest):
            log.warning("the rules are narrower than when the sync ended", offset=checkpoint.position.offset)
            self._followed = checkpoint.rules
            return ""
        words = ", ".join(changed(checkpoint.rules, self.choice.digest)) or "their digest"
        if self.settings.on_rules_change is OnRulesChange.REFUSE and not self.settings.full_sync:
            raise ConfigError(
                f"the data in the target was made by other rules than those of this start: {words}",
                hint="take the old ones, or set on_rules_change to full-sync, which copies the snapshot again",
            )
        return words

    def made(self, checkpoint: Checkpoint) -> bool:
        """Whether the data beside a checkpoint was made by the rules in force.

        It may tell that narrower ones are, of which nobody heard before the connection was lost; others may have been asked for since.
        """
        self._take_slots(checkpoint)
        waiting = [*self._earlier, *([] if self._next is None else [self._next])]
        if told := next((each for each in waiting if checkpoint.rules == each.choice.digest), None):
            self._take(told, checkpoint.position.offset)
        return checkpoint.rules in {self.choice.digest, self._followed or self.choice.digest}

    def _take_slots(self, checkpoint: Checkpoint) -> None:
        """The link of a shard has the slots that stand beside its data: some may have moved since these settings were written."""
        there = tuple(each for each in checkpoint.slots.split() if each != BLURRED.strip())
        if self.settings.shard_of and there and there != self.settings.include_slots:
            self.settings = replace(self.settings, include_slots=there)
            self.choice = choice_of(self.settings, self.settings.checkpoint_key)

    # -- while it runs

    async def narrow(self, settings: Settings) -> Narrower:
        """Narrower rules follow those in force, as soon as the stream is followed.

        Args:
            settings: of the link, with them.

        Raises:
            ConfigError: they are not narrower, or cannot be had here, or another link may make the same keys.
            TargetError: the target cannot be asked for other links' keys.
        """
        async with self._asking:
            before = self.newest
            if settings.shard_of:  # some may have moved since these settings were made
                settings = replace(settings, include_slots=before.include_slots)
            if words := widened(before, settings):
                raise ConfigError(f"the rules are not narrower than those in force: {', '.join(words)}")
            target = settings.target_endpoint()
            following = Narrower(settings, choice_of(settings, settings.checkpoint_key))
            if await read_checkpoint(target, settings.checkpoint_name()) is not None and following.choice:
                # The next start would ask the same, and be refused.
                await claim(settings, following.choice.image, self._neighbours, ruled=True, thorough=not self.choice)
            if settings.shard_of:
                await narrowings.note(settings, digest_of(before), following.choice.digest)
            return self._let_follow(following)

    async def redraw(
        self, slots: Ranges, *, blurs: bool = False, by_copy: bool = False, still: Callable[[], bool] = lambda: True
    ) -> Narrower:
        """The link is to have other slots of its source, as soon as the stream is followed: some moved to it, or away.

        Args:
            slots: all of them.
            blurs: see `Choice.blurs`.
            by_copy: with the next full sync, and not before.
            still: asked when the target has taken that down: if not, they are in force never, and nobody is told.

        Raises:
            TargetError: the target does not take down where keys of this link can be.
        """
        async with self._asking:
            settings = replace(self.newest, include_slots=written(slots))
            blurs |= self._next is not None and self._next.choice.blurs  # it may never be in force by itself
            choice = replace(choice_of(settings, settings.checkpoint_key), blurs=blurs)
            following = Narrower(settings, choice, of_slots=True, by_copy=by_copy)
            await note(settings, following.choice.image)
            return self._let_follow(following) if still() else following

    def _let_follow(self, following: Narrower) -> Narrower:
        if self._next is not None:
            following.by_copy |= self._next.by_copy
            self._earlier.append(self._next)
        self._next = following
        if self._follower is not None and not following.by_copy:
            self._follower(following)
        return following

    @contextmanager
    def followed_by(self, take: Callable[[Narrower, Callable[[int], None]], None]) -> Iterator[None]:
        """The stream is followed inside of it.

        Args:
            take: has narrower rules taken up: told of them, and of whom to tell the offset when that is so.
        """

        def follower(narrower: Narrower) -> None:
            take(narrower, lambda offset: self._take(narrower, offset))

        self._follower = follower
        if self._next is not None and not self._next.by_copy:
            follower(self._next)
        try:
            yield
        finally:
            self._follower = None

    def begin_anew(self, offset: int) -> None:
        """Everything is copied again: by the narrower rules at once, where there are some."""
        if self._next is not None:
            self._take(self._next, offset)

    def _take(self, narrower: Narrower, offset: int) -> None:
        """They are in force."""
        differs = narrower.choice.digest != self.choice.digest
        self.settings, self.choice = narrower.settings, narrower.choice
        if self._next is narrower:
            self._next = None
            told, self._earlier = [*self._earlier, narrower], []
        else:
            told = [narrower]
            self._earlier.remove(narrower)
        if narrower.of_slots and differs:
            log.info(
                "the link has other slots", offset=offset, slots=spelled(read_written(narrower.settings.include_slots))
            )
        if not all(each.of_slots for each in told):
            log.warning("the rules are narrower", offset=offset, rules=narrower.choice.digest)
        for each in told:
            if not each.taken.done():
                each.taken.set_result(offset)
