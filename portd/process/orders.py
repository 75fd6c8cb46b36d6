"""What an operator may say to a running process through its control socket: `portd ctl`.

Every command but `reload` is for links: for the one that the argument ``link`` names (all shards of it, where its source is
a cluster), or for each of them where none is named. The answer has an entry for each in ``links``, with ``link``, ``ok``,
``text``, ``error`` and ``hint`` where it was refused, and what the command adds:

==============  =================================  ===========================================================
command         arguments                          adds
==============  =================================  ===========================================================
``status``                                         ``process``: as ``/status`` has it, without settings
``position``                                       ``replid, received, applied, checkpointed, source, lag_bytes``
``drain``       ``offset, timeout``                ``replid, offset, applied, seconds``
``pause``                                          ``since``, ``changed``
``resume``                                         ``changed``
``limit``       ``max_target_ops,``                both of them as they are, ``configured``, ``temporary``
                ``max_target_bytes_per_second``
``verify``      ``wait, timeout``                  ``result, keys, functions, seconds, exit_code`` where it waits
``accept``                                         ``reason``
``full-sync``   ``confirm``: true, or the link's name
``handover``                                       ``replid, applied, received, released, drained, seconds``
``reload``                                         ``changed, needs_restart, overridden, limits_back, narrower``
==============  =================================  ===========================================================

``accept`` and ``full-sync`` want a name where there are several links: their word is about data.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, Final

from portd.config.choices import StopAfter
from portd.controlsocket import Command, Refusal, never
from portd.errors import PortdError, SourceError
from portd.groups import TaskGroup
from portd.log import get_logger
from portd.model import LEASE_SECONDS, Work
from portd.source.info import ask_offset
from portd.units import human_bytes, human_count, human_seconds
from portd.watch.summary import status_lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from portd.process.running import RunningLink

DRAIN_SECONDS: Final = 60.0  # waited for an offset, unless it is said otherwise
SOURCE_SECONDS: Final = 5.0  # waited for a source to say where it is
MOST_SECONDS: Final = 7 * 86400.0  # that anything is waited for
_VERIFY_CODES: Final = {"equal": os.EX_OK, "different": 1}  # as `portd verify` has them; else EX_TEMPFAIL
LIMIT_NAMES: Final = ("max_target_ops", "max_target_bytes_per_second")

log = get_logger("control")


class Orders:
    """Carries commands out.

    Args:
        links: of the process.
        describe: what is known of a link, by its name, as plain data.

    Attributes:
        read_again: reads the settings again, where somebody can; what the answer to `reload` holds.
    """

    def __init__(self, links: Sequence[RunningLink], describe: Callable[[str], dict[str, Any]]) -> None:
        self.read_again: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
        self._links = links
        self._describe = describe

    def commands(self) -> dict[str, Command]:
        """What each name stands for."""
        link = {"link": _name}
        limits = dict.fromkeys(LIMIT_NAMES, _whole)
        return {
            "status": Command(self._for(self._status), link, never),
            "position": Command(self._for(self._position), link, never),
            "drain": Command(
                self._for(self._drain), {**link, "offset": _whole, "timeout": _seconds}, never, lasts=True
            ),
            "pause": Command(self._for(self._pause), link),
            "resume": Command(self._for(self._resume), link),
            "limit": Command(self._for(self._limit), {**link, **limits}, lambda given: bool(given.keys() - {"link"})),
            "verify": Command(self._for(self._verify), {**link, "wait": _switch, "timeout": _seconds}, lasts=True),
            "accept": Command(self._for(self._accept, one=True), link),
            "full-sync": Command(self._for(self._full_sync, one=True), {**link, "confirm": _confirmation}),
            "handover": Command(self._for(self._hand_over), link, lasts=True),
            "reload": Command(self._reload, lasts=True),
        }

    # -- which links are meant

    def _for(
        self, act: Callable[[RunningLink, Mapping[str, Any]], Awaitable[Mapping[str, Any]]], *, one: bool = False
    ) -> Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]:
        """Does *act* for every link that is meant, side by side; with *one*, only where one is named or there is only one."""

        async def run(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            meant = self._meant(arguments.get("link"), one=one)
            async with TaskGroup() as group:
                tasks = [group.create_task(_for_one(each, act, arguments), name=f"order {each.name}") for each in meant]
            return _together([task.result() for task in tasks])

        return run

    def _meant(self, name: str | None, *, one: bool) -> list[RunningLink]:
        """The links of that name; all without one.

        Raises:
            Refusal: there is none, or one has to be named.
        """
        names = ", ".join(each.name for each in self._links)
        if name is None:
            if one and len(self._links) > 1:
                raise Refusal(f"this process has several links: {names}", "name the one that is meant with --link")
            return list(self._links)
        found = [each for each in self._links if name in {each.name, each.settings.described}]
        if not found:
            raise Refusal(f"this process has no link named {name[:64]!r}", f"it has {names}")
        return found

    # -- what is known

    async def _status(self, link: RunningLink, _: Mapping[str, Any]) -> Mapping[str, Any]:
        process = self._describe(link.name)
        process.pop("settings", None)
        lines = {"link": link.name, **status_lines(process)}
        return {"text": "\n".join(f"{name:<16} {value}" for name, value in lines.items()), "process": process}

    async def _position(self, link: RunningLink, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where both ends are; the source is asked now."""
        source, why = await _source_offset(link)
        stream, position = link.progress.stream, link.progress.position
        offsets = {
            "received": stream.read_offset,
            "applied": stream.applied_offset,
            "checkpointed": stream.checkpointed_offset,
        }
        told = f"source {source}" if source is not None else f"source not known: {why}"
        shown = ", ".join(f"{name} {value}" for name, value in offsets.items())
        replid = position.replid if position is not None else ""
        return {
            "text": f"{replid or 'no history yet'}: {told}, {shown}",
            "replid": replid,
            "source": source,
            **offsets,
            "following": stream.following,
            "lag_bytes": link.progress.lag_bytes,
            "paused": bool(link.progress.limit.paused_since),
        }

    async def _drain(self, link: RunningLink, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answers when the target has everything up to an offset: of the source now, unless one is given."""
        _refuse_ended(link)
        progress, stream = link.progress, link.progress.stream
        offset, told = arguments.get("offset"), ""
        if not stream.following:
            raise Refusal(
                f"the stream is not followed: {_where(link)}",
                "there is no offset to wait for before the snapshot is applied",
            )
        if offset is None:
            offset, why = await _source_offset(link)
            if offset is None:
                offset, told = stream.read_offset, f" (what was received; the source's own is not known: {why})"
        if progress.limit.paused_since and stream.applied_offset < offset:
            raise Refusal("it is paused: nothing is applied", "portd ctl resume")
        begun, seconds = time.monotonic(), arguments.get("timeout", DRAIN_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                reached = await link.unless_over(link.link.reaching.reach(offset))
        except TimeoutError:
            missing = f"applied is {stream.applied_offset}, {offset - stream.applied_offset} bytes before it"
            raise Refusal(f"offset {offset} was not reached within {seconds:g} s: {missing}", _where(link)) from None
        if not reached:
            raise Refusal(
                "a full sync has begun: the offset is one of a history that is over", "ask for the position again"
            )
        took = time.monotonic() - begun
        return {
            "text": f"applied up to {offset}{told}",
            "replid": progress.position.replid if progress.position else "",
            "offset": offset,
            "applied": stream.applied_offset,
            "seconds": round(took, 3),
        }

    # -- how much is written

    async def _pause(self, link: RunningLink, _: Mapping[str, Any]) -> Mapping[str, Any]:
        _refuse_ended(link)
        _refuse_standby(link)
        if link.progress.stopping:
            raise Refusal(
                "it was told to stop, and writes what is left", "a paused link that is stopped writes nothing more"
            )
        changed = link.link.limiter.pause()
        since = link.progress.limit.paused_since
        text = (
            "paused: nothing more is sent to the target; what the source writes goes into the spool until that is full"
            if changed
            else f"it is paused already, since {_clock(since)}"
        )
        return {"text": text, "since": since, "changed": changed}

    async def _resume(self, link: RunningLink, _: Mapping[str, Any]) -> Mapping[str, Any]:
        _refuse_ended(link)
        seconds = time.time() - link.progress.limit.paused_since
        changed = link.link.limiter.resume()
        behind = link.progress.lag_bytes
        waits = f", {human_bytes(behind)} wait" if behind else ""
        text = f"it goes on, after {human_seconds(seconds)}{waits}" if changed else f"it was not paused: {_where(link)}"
        return {"text": text, "changed": changed}

    async def _limit(self, link: RunningLink, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        wanted = {name: arguments[name] for name in LIMIT_NAMES if name in arguments}
        if wanted:
            _refuse_ended(link)
            link.limit_for_now(wanted)
        now = link.progress.limit
        limits = {"max_target_ops": now.ops_per_second, "max_target_bytes_per_second": now.bytes_per_second}
        until = "; until the next reload or start" if now.temporary else ""
        return {
            "text": ", ".join(f"{name} {_limit_text(value)}" for name, value in limits.items()) + until,
            **limits,
            "configured": dict(link.limits),
            "temporary": now.temporary,
        }

    # -- what is done

    async def _verify(self, link: RunningLink, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begins a comparison, or waits for the one that runs."""
        _refuse_ended(link)
        link.settings.target_endpoint().one_server("verify")
        if link.settings.described != link.name:
            link.settings.source_endpoint().one_server("verify")
        if link.progress.limit.paused_since:
            raise Refusal("it is paused: what the source writes does not reach the target", "portd ctl resume")
        if not link.schedule.usable:
            raise Refusal(
                f"both ends can be compared once the target has caught up: {_where(link)}",
                "portd ctl status shows how far it is",
            )
        state = link.progress.verify
        runs = (
            f"a comparison runs already, since {_clock(state.started_at)}"
            if state.running
            else "a comparison has begun"
        )
        result = link.schedule.begin()
        if not arguments.get("wait"):
            return {
                "text": f"{runs}; its result comes in the log (compared both ends), on the status page and in /status (verify)"
            }
        seconds = arguments.get("timeout")
        try:
            async with asyncio.timeout(seconds):
                found = await link.unless_over(result)
        except TimeoutError:
            raise Refusal(f"no result within {seconds:g} s", "it goes on; the log will tell") from None
        code, counted = _VERIFY_CODES.get(found, os.EX_TEMPFAIL), {}
        if found not in {"failed", "abandoned"}:  # what is there then is of the one before
            counted = dict(state.keys)
        keys = ", ".join(f"{human_count(count)} {kind}" for kind, count in counted.items() if count)
        told = {
            "failed": state.error,
            "abandoned": "the stream is not followed any more, or the rules have changed",
        }.get(found, keys or "no keys")
        functions = f"; function libraries differ: {state.functions}" if state.functions else ""
        return {
            "text": f"{found.upper()}: {told}{functions}",
            "result": found,
            "keys": counted,
            "functions": state.functions,
            "seconds": round(state.seconds, 3),
            "exit_code": code,
        }

    async def _accept(self, link: RunningLink, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """An operator lets a held sync go on."""
        held = link.link.gate.accept()
        if held is None:
            raise Refusal(
                f"nothing is held: the sync is {link.standing().phase.value}",
                "a word in advance is the flag --accept-source",
            )
        return {"reason": held.reason, "text": f"accepted, the sync goes on: {held.words}"}

    async def _full_sync(self, link: RunningLink, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Copies everything anew."""
        _refuse_ended(link)
        _refuse_standby(link)
        if arguments.get("confirm") not in {True, link.name, link.settings.described}:
            raise Refusal(
                "a full sync copies everything again, and costs the source a fork",
                "confirm it: --yes, or the link's name",
            )
        progress = link.progress
        if progress.held is not None:
            raise Refusal("a full sync is held already", "portd ctl accept lets it go on")
        if progress.work is Work.COPYING or progress.preparing:
            raise Refusal("a full sync is under way already", "portd ctl status shows how far it is")
        if progress.stopping:
            raise Refusal("it was told to stop", "start it with --full-sync")
        link.link.ask_full_sync()
        paused = "; it is paused, and begins when it goes on" if progress.limit.paused_since else ""
        return {"text": f"a full sync begins, unless it has to be held{paused}; portd ctl status shows how far it is"}

    async def _hand_over(self, link: RunningLink, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ends the link in order; answers when another process can have it."""
        _refuse_ended(link)
        _refuse_standby(link)
        progress, stream, begun = link.progress, link.progress.stream, time.monotonic()
        if not progress.stopping:
            if progress.work is Work.COPYING or progress.preparing:
                raise Refusal(
                    "a full sync is under way, and the next one would begin it anew",
                    "wait for it; or stop it with SIGTERM",
                )
            if progress.limit.paused_since:
                raise Refusal("it is paused: what was received cannot be written", "portd ctl resume")
            if link.settings.stop_after is not StopAfter.NONE:
                raise Refusal(
                    f"it ends by itself (stop_after {link.settings.stop_after.value})", "or stop it with SIGTERM"
                )
        log.info("handing over", link=link.name)
        link.request_stop()
        await link.over.wait()
        if link.error is not None:
            raise Refusal(
                f"the link has failed: {link.error.args[0] if link.error.args else link.error}", "see the log"
            )
        found = {
            "replid": progress.position.replid if progress.position else "",
            "applied": stream.applied_offset,
            "received": stream.read_offset,
            "drained": not link.late,
            "released": link.link.released,
            "seconds": round(time.monotonic() - begun, 3),
        }
        late = "" if not link.late else "; not all of what was received, the source sends it again"
        if not link.link.released:
            return {
                "ok": False,
                "error": "the lease could not be given back",
                "hint": f"it is free in {LEASE_SECONDS:.0f} s; applied is {stream.applied_offset}{late}",
                **found,
            }
        return {"text": f"handed over: applied up to {stream.applied_offset}{late}; the lease is free", **found}

    # -- the process

    async def _reload(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.read_again is None:
            raise Refusal("this process was started without --config", "there is nothing to read again")
        return await self.read_again()


async def _for_one(
    link: RunningLink,
    act: Callable[[RunningLink, Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """What a command says of one link."""
    try:
        return {"link": link.name, "ok": True, **await act(link, arguments)}
    except (Refusal, PortdError) as error:
        return {"link": link.name, "ok": False, "error": str(error.args[0]), "hint": error.hint or ""}


def _together(links: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The answer for all links."""
    refused = [each for each in links if not each["ok"]]
    named = len(links) > 1
    answer: dict[str, Any] = {
        "ok": not refused,
        "text": "\n".join(_named(each["link"], each["text"], named=named) for each in links if each["ok"]),
    }
    if refused:
        answer["error"] = "; ".join(_named(each["link"], each["error"], named=named) for each in refused)
        answer["hint"] = "; ".join(dict.fromkeys(each["hint"] for each in refused if each["hint"]))
    return {**answer, "links": list(links)}


def _named(link: str, text: str, *, named: bool) -> str:
    """With the name of the link in front, where there are several; a block has it inside."""
    return f"{text}\n" if named and "\n" in text else f"{link}: {text}" if named else text


def _refuse_ended(link: RunningLink) -> None:
    """Raises: Refusal: nothing is done any more, or not yet: the link is another process's."""
    if link.progress.standby is not None:
        raise Refusal(f"it stands by: {link.progress.standby.words}", "ask the process that has the link")
    if link.over.is_set():
        why = f"it has failed: {link.progress.failure}" if link.error is not None else "it has ended"
        raise Refusal(why, "start it again")


def _refuse_standby(link: RunningLink) -> None:
    """Raises: Refusal: another process has the link."""
    if link.progress.standby is not None:
        raise Refusal(f"it stands by: {link.standing().reason}", "ask the process that has the link")


async def _source_offset(link: RunningLink) -> tuple[int | None, str]:
    """The source's offset now; why it is not known where it is not."""
    try:
        async with asyncio.timeout(SOURCE_SECONDS):
            offset = await ask_offset(link.link.gate.source)
    except SourceError as error:
        return None, str(error.args[0])
    except TimeoutError:
        return None, "it does not answer"
    return offset, "" if offset is not None else "our user may not ask (+info)"


def _where(link: RunningLink) -> str:
    """The phase, and why it is not ready."""
    standing = link.standing()
    return f"{standing.phase.value}, {standing.reason}" if standing.reason else standing.phase.value


def _clock(unix: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(unix))


def _limit_text(value: int) -> str:
    return str(value) if value else "no limit"


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(value)
    return value[:64]


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError(value)
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_SECONDS:
        raise ValueError(value)
    return float(value)


def _confirmation(value: object) -> bool | str:
    return value if isinstance(value, bool) else _name(value)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value
