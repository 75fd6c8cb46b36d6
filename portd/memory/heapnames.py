"""Function names for files and lines, from the code objects of loaded modules: `tracemalloc` only knows the latter.

Sources are not read: that would take the loop longer than it may be held. While `tracemalloc` traces, every object made
here costs it microseconds, so even this looking up is done in slices.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portd.memory.slices import Slices


MAX_REMEMBERED = 10_000  # frames
MAX_TRIED = 12  # functions before a line, innermost first, that are asked whether it is theirs


@dataclass(frozen=True, slots=True)
class Function:
    """Where a line belongs.

    Attributes:
        name: with module and classes, `portd.spool.spool.Spool.read`.
        file: as Python names it.
        line: first line of the definition; 0 when it is not known.
    """

    name: str
    file: str
    line: int


class FunctionNames:
    """Finds functions, and remembers them: a second profile of the same program is much cheaper."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}
        self._codes: dict[str, list[CodeType]] = {}
        self._found: dict[tuple[str, int], Function] = {}

    async def find(self, frame: tuple[str, int], slices: Slices) -> Function:
        """The innermost function around a line.

        Args:
            frame: file and line.
            slices: when to give way.
        """
        function = self._found.get(frame)
        if function is None:
            function = await self._search(*frame, slices)
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            self._found[frame] = function
        return function

    def tidy(self) -> None:
        """Drops what is only of use within one profile."""
        self._modules.clear()
        self._codes.clear()

    async def _search(self, file: str, line: int, slices: Slices) -> Function:
        if file.startswith("("):  # one of our own: an owner, not a file
            return Function(file, "", 0)
        if not self._modules:
            for module in list(sys.modules.values()):
                self._modules[getattr(module, "__file__", None) or ""] = module
                await slices.rest()
        known = self._modules.get(file)
        if known is None:
            return Function(f"{Path(file).stem}:{line}", file, 0)
        codes = self._codes.get(file)
        if codes is None:
            codes = self._codes[file] = await self._look_through(known, file, slices)
        name, tried = _module_name(known), 0
        for code in codes:
            if code.co_firstlineno > line:
                continue
            if any(each == line for _, _, each in code.co_lines()):
                return Function(f"{name}.{code.co_qualname.replace('.<locals>', '')}", file, code.co_firstlineno)
            tried += 1
            if tried == MAX_TRIED:
                break
            await slices.rest()
        return Function(f"{name}:{line}", file, 0)

    @staticmethod
    async def _look_through(module: ModuleType, file: str, slices: Slices) -> list[CodeType]:
        """Code of all functions and methods that a module defines, inner ones included, last ones first."""
        found: list[CodeType] = []
        waiting: list[object] = list(vars(module).values())
        seen: set[int] = set()
        while waiting:
            each = waiting.pop()
            if id(each) in seen:
                continue
            seen.add(id(each))
            if isinstance(each, FunctionType):
                waiting += [each.__code__, getattr(each, "__wrapped__", None)]
            elif isinstance(each, CodeType):
                if each.co_filename == file:
                    found.append(each)
                    waiting += each.co_consts
            elif isinstance(each, type):
                if each.__module__ == module.__name__:
                    waiting += vars(each).values()
            elif isinstance(each, property):
                waiting += [each.fget, each.fset]
            elif isinstance(each, (staticmethod, classmethod)):
                waiting.append(each.__func__)
            elif isinstance(each, functools.cached_property):
                waiting.append(each.func)
            await slices.rest()
        return sorted(found, key=lambda code: -code.co_firstlineno)


def _module_name(module: ModuleType) -> str:
    spec = module.__spec__
    return spec.name if spec is not None else module.__name__  # of __main__, the spec knows more
