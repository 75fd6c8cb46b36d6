"""What a start refuses: ends that do not go together, and rules by which the data in the target was not made.

Nothing here changes anything in the target. A standby asks the same before it waits, so that it is not found out when it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.config.choices import OnRulesChange
from portd.config.rules import changed
from portd.errors import ConfigError
from portd.link import clusters
from portd.log import get_logger
from portd.target.kept.checkpoint import guard
from portd.target.kept.contents import keys_there

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.net.control import Control
    from portd.target.capabilities import Capabilities
    from portd.target.clusternodes import ClusterTarget
    from portd.target.kept.checkpoint import Checkpoint

log = get_logger("sync")


def refuse_collisions(choice: Choice, used: Iterable[int]) -> None:
    """Makes sure that no two databases go into one, unless that was asked for.

    Args:
        choice: the rules.
        used: databases of the source that hold keys.

    Raises:
        ConfigError: two do, and both hold keys.
    """
    for db in choice.blocked.intersection(used):
        others = [each for each in used if each != db and choice.database_to(each) == db]
        if others:
            raise ConfigError(
                f"map_db puts database {others[0]} into {db}, and the source has keys in its database {db}, too",
                hint=f"say where that one goes (map_db {db}=N), leave it out (exclude_db {db}), or set map_db_many",
            )


def require_databases(choice: Choice, used: Iterable[int], there: int, *, stops: bool) -> None:
    """Makes sure that the target has every database that keys go to, as far as both ends tell.

    Args:
        choice: the rules.
        used: databases of the source that hold keys.
        there: databases that the target has; 0 where it does not tell.
        stops: a refusal of the target is to end the sync.

    Raises:
        ConfigError: it has not, and *stops*.
    """
    taken = [each for each in used if choice.rules is None or choice.rules.takes_database(each)]
    highest = max(map(choice.database_to, taken), default=-1)
    if not 0 < there <= highest:
        return
    told = f"the source has keys for database {highest}, the target has only {there} databases"
    if stops:
        raise ConfigError(told, hint=f"set databases to {highest + 1} or more at the target, or --on-refusal continue")
    log.warning(told, hint="what belongs into databases that the target lacks becomes dead letters")


async def guard_target(
    settings: Settings, choice: Choice, capabilities: Capabilities, cluster: ClusterTarget | None, source_run_id: str
) -> None:
    """Lets a target pass that is empty, or holds our checkpoint, or whose data the settings speak of.

    Args:
        settings: of the link.
        choice: its rules.
        capabilities: of the target.
        cluster: its nodes; None where it is none.
        source_run_id: the source's process; "" when it does not tell.

    Raises:
        ConfigError: it is none of them, or the source itself.
        TargetError: it cannot be asked.
    """
    if cluster is not None:
        await clusters.guard(cluster, settings, source_run_id)
        return

    async def covered(client: Control) -> dict[int, int]:
        return await keys_there(client, settings.checkpoint_key, settings.checkpoint_name(), choice)

    await guard(
        settings.target_endpoint(),
        capabilities,
        settings.checkpoint_name(),
        settings.checkpoint_key,
        settings.existing.value,
        source_run_id=source_run_id,
        covers=covered if choice else None,
    )


def changed_rules(settings: Settings, choice: Choice, checkpoint: Checkpoint | None) -> str:
    """What of the rules is another one than when the data in the target was made; "" when nothing is.

    Raises:
        ConfigError: something is, and that is refused.
    """
    if checkpoint is None or checkpoint.rules == choice.digest:
        return ""
    words = ", ".join(changed(checkpoint.rules, choice.digest)) or "their digest"
    if settings.on_rules_change is OnRulesChange.REFUSE and not settings.full_sync:
        raise ConfigError(
            f"the data in the target was made by other rules than those of this start: {words}",
            hint="take the old ones, or set on_rules_change to full-sync, which copies the snapshot again",
        )
    return words
