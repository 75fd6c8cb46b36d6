"""Commands whose flags are given once: the same flag twice with different values is an error, not the last one's victory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Callable


class Command(TyperCommand):
    """A command that takes no flag twice, unless both say the same."""

    def make_parser(self, ctx: Any) -> Any:
        """The parser, with every option looking at what was given before it."""
        parser = super().make_parser(ctx)
        options = {id(each): each for each in (*parser._short_opt.values(), *parser._long_opt.values())}  # noqa: SLF001
        for option in options.values():
            option.process = partial(_process, ctx, option, option.process)  # type: ignore[method-assign]
        return parser


def _process(ctx: Any, option: Any, process: Callable[[Any, Any], None], value: Any, state: Any) -> None:
    """Takes one option of the command line. What was given is not repeated: it may be a secret."""
    given, before = option.dest in state.opts, state.opts.get(option.dest)
    process(value, state)
    if given and option.action.startswith("store") and state.opts[option.dest] != before:
        raise typer.BadParameter("it is given twice, with different values; give it once", ctx, option.obj)
