"""Both ends and the sync between them, as they are found before anything is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.config.choices import ExpiryGap
from portd.config.rules import choice_of
from portd.cutover.checks import Facts
from portd.cutover.doubt import Doubt
from portd.cutover.places import Place
from portd.cutover.servers import ask_server, read_setting, together
from portd.cutover.shard import check_slots, shards_of
from portd.errors import ConfigError
from portd.net.topology import ALL_SLOTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from portd.config.settings import Settings
    from portd.cutover.shard import Shard
    from portd.cutover.sync import Sync
    from portd.net.endpoint import Endpoint

ONE_SHARD: Final = "one shard of a cluster is cut over with all others"


class Ends:
    """See above; `open` first.

    Args:
        settings: of the link that the operator described.
        sync: the one that runs between the ends.
        primary: where the source's clients write; None: at the source.

    Attributes:
        source: one end.
        target: the other one.
    """

    def __init__(self, settings: Settings, sync: Sync, primary: Endpoint | None) -> None:
        wanted = tuple(settings.slot_ranges()) or ALL_SLOTS
        self.source = Place("source", settings.source_endpoint(), wanted)
        self.target = Place("target", settings.target_endpoint(), choice_of(settings, settings.checkpoint_key).slots)
        self._settings = settings
        self._sync = sync
        self._primary = primary

    @property
    def places(self) -> tuple[Place, Place]:
        """Source and target."""
        return self.source, self.target

    @property
    def writes_at(self) -> Endpoint:
        """Where the source's clients write; of a cluster: itself."""
        return self._primary or self.source.endpoint

    @property
    def fenced(self) -> Sequence[Endpoint]:
        """The servers at which they do."""
        return self.source.nodes if self._primary is None else (self._primary,)

    async def open(self) -> list[Shard]:
        """Whether it can be done with these ends at all; the links that are between them.

        Raises:
            ConfigError: it cannot.
            Doubt: the sync has other links than these; slots move.
            SourceLost: a server does not answer, or nobody listens.
            HandshakeError: a server does not let us ask.
        """
        self._check_settings()
        statuses = await self._sync.statuses()
        if self.source.endpoint.seeds is not None and self._settings.link in statuses:
            raise ConfigError(ONE_SHARD, hint=f"{self._settings.link} is one: name the link that was described")
        for status in statuses.values():
            urls = status["source"]["url"], status["target"]["url"]
            if urls != (self.source.endpoint.display, self.target.endpoint.display):
                raise ConfigError(
                    f"the sync's ends are {urls[0]} and {urls[1]}", hint="give its own --source, --target and --link"
                )
        for place in self.places:
            await place.open()
        sources = await self.source.infos()
        await self.target.infos()
        here, there = ({each.run_id for each in place.identities} - {""} for place in self.places)
        if here & there:
            raise ConfigError("source and target are the same server", hint="check both addresses")
        await self._check_primary(sources[0])
        shards = await shards_of(self._settings, self.source, self.target, self.writes_at)
        self._check_links(statuses, shards)
        await check_slots(self._settings, self.source)
        return shards

    async def facts(self) -> Facts:
        """What the checks look at.

        Raises:
            SourceLost: a server does not answer.
            HandshakeError: one does not let us ask.
            Doubt: the sync refuses.
        """
        targets = self.target.nodes
        limits = await together(targets, lambda each: read_setting(each, "maxmemory"), "ask target")
        return Facts(
            syncs=await self._sync.statuses(),
            sources=_by_node(self.source.nodes, await self.source.infos()),
            targets=_by_node(targets, await self.target.infos()),
            settings=_by_node(targets, limits),
        )

    async def setting(self, name: str) -> dict[str, dict[str, str]]:
        """A setting of each server of the target, by its URL; empty where it is not told.

        Raises:
            SourceLost: one does not answer.
        """
        found = await together(self.target.nodes, lambda each: read_setting(each, name), "ask target")
        return dict(_by_node(self.target.nodes, found))

    def _check_settings(self) -> None:
        """Raises: ConfigError: it cannot be done with them."""
        settings = self._settings
        clustered = self.source.endpoint.seeds is not None
        if clustered and settings.one_shard:
            raise ConfigError(ONE_SHARD, hint="name the link as it is described, without one_shard")
        if clustered and self._primary is not None:
            raise ConfigError("the primaries of a cluster are found by its map", hint="leave --primary out")
        if settings.expiry_gap is ExpiryGap.HOLD:
            raise ConfigError(
                "expiry_gap is hold: only an end by --stop-after caught-up sets expiry times back", hint="see the guide"
            )

    @staticmethod
    def _check_links(statuses: Mapping[str, Any], shards: Sequence[Shard]) -> None:
        """Raises: Doubt: the sync has other links than these."""
        expected = {each.name for each in shards}
        if statuses.keys() != expected:
            raise Doubt(
                f"the sync has the links {', '.join(sorted(statuses))}, the source's map is that of {', '.join(sorted(expected))}",
                hint="slots have moved since it began: it has to know them first; docs/clusters.md tells how",
            )

    async def _check_primary(self, told: Mapping[str, str]) -> None:
        """Where the source's clients write.

        Raises:
            ConfigError: nobody says where that is, or it has another history.
        """
        if self._primary is None:
            if self.source.identities[0].role == "slave":
                raise ConfigError(
                    f"the source is a replica of {told.get('master_host')}:{told.get('master_port')}: its clients write there",
                    hint="say where they write: --primary URL",
                )
            return
        info = await ask_server(self._primary)
        if info.get("role") != "master" or info.get("master_replid") != told.get("master_replid"):
            raise ConfigError(
                f"{self._primary.display} is not the primary of the source",
                hint="both must have one history (master_replid)",
            )


def _by_node(nodes: Sequence[Endpoint], found: Sequence[dict[str, str]]) -> Mapping[str, dict[str, str]]:
    return {node.display: each for node, each in zip(nodes, found, strict=True)}
