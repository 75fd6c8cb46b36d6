"""What a checkpoint of the link in the target says of the next start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.config.rules import choice_of
from portd.errors import PortdError
from portd.hold import Facts, Identity, judge
from portd.link.gate import followed_by, gather
from portd.preflight.safety import Held
from portd.target.kept.checkpoint import State, read_checkpoint

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.preflight.survey import Survey


async def resumable(settings: Settings, here: Survey) -> bool | Held | Facts | PortdError:
    """A checkpoint of this link lies in the target, and perhaps a full sync would be held; or why that cannot be told.

    Facts are of a full sync that is judged by its snapshot.
    """
    try:
        checkpoint = await read_checkpoint(settings.target_endpoint(), settings.checkpoint_name())
        if checkpoint is None or (checkpoint.first and checkpoint.sole):
            return checkpoint is not None
        info = here.info
        source = Identity(
            replid=info.get("master_replid", ""),
            replid2=info.get("master_replid2", ""),
            run_id=info.get("run_id", ""),
            address=settings.source_endpoint().display,
        )
        broken_off = checkpoint.state is State.SNAPSHOT
        if broken_off and checkpoint.accepted and followed_by(checkpoint).continues(source):
            return True
        choice, used = choice_of(settings, settings.checkpoint_key), here.keys if info else None
        facts = await gather(settings, checkpoint, source, used, choice)
    except PortdError as problem:
        return problem
    hold = judge(facts, settings.prune_limit)
    known = {source.replid, source.replid2} - {""}
    certain = broken_off or checkpoint.position.replid not in known
    if hold is None:
        open_yet = facts.doubtful or (certain and facts.removes and facts.target_keys > 0)
        return facts if open_yet and not checkpoint.first else True
    return Held(hold, certain=certain)
