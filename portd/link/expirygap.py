"""What keeps keys alive in the target whose renewal comes late (docs/design/0002)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.config.choices import ExpiryGap
from portd.log import get_logger
from portd.target.kept import postponed

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.net.endpoint import Endpoint
    from portd.target.capabilities import Capabilities
    from portd.target.cluster.importing import ClusterImportMode
    from portd.target.kept.importmode import ImportMode

log = get_logger("sync")


async def close(
    settings: Settings, target: Endpoint, capabilities: Capabilities, import_mode: ImportMode | ClusterImportMode
) -> tuple[bool, bool]:
    """Chooses it, as settings and target allow; says what is open.

    Args:
        settings: of the link.
        target: where it writes to.
        capabilities: of the target.
        import_mode: of the link.

    Returns:
        Whether the target is in import mode because of us, and whether near expiries are postponed.

    Raises:
        TargetError: the target refuses, or cannot be reached.
    """
    wanted, imports, postpones = settings.expiry_gap, False, False
    if wanted in {ExpiryGap.AUTO, ExpiryGap.IMPORT_MODE}:
        imports = await import_mode.enter(capabilities)
    if capabilities.cluster_enabled:
        if wanted is not ExpiryGap.OFF and not imports:
            log.warning(
                "the expiry gap is open: the target is a cluster", wanted=wanted.value,
                hint="keys renewed at the last moment may expire while the target lags; import mode of Valkey 8.1 closes it",
            )  # fmt: skip
            wanted = ExpiryGap.OFF
    elif wanted in {ExpiryGap.POSTPONE, ExpiryGap.HOLD} or (wanted is ExpiryGap.AUTO and not imports):
        postpones = await postponed.usable(target, capabilities, settings.checkpoint_name())
    if not imports and not postpones and wanted is not ExpiryGap.OFF:
        log.warning("the expiry gap is open", wanted=wanted.value, hint="keys renewed at the last moment may expire")
        return imports, postpones
    held = "hold" if wanted is ExpiryGap.HOLD else "postpone"
    log.info("expiry gap", closed_by="import-mode" if imports else held if postpones else "no")
    return imports, postpones
