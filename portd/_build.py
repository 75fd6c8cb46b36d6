"""Builds the kernel, or says what to install so that it can be built.

pyproject.toml has one entry for the whole kernel, a pattern; each .pyx that it finds is a unit. A new one needs no word
anywhere: what Cython must know stands in its first line, and what it includes or cimports Cython finds itself.

Used by setuptools (`[tool.setuptools.cmdclass]`) when neither portd nor its dependencies are installed: only the
standard library and setuptools may be imported here.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Iterator

HOW = """HINT: install a C compiler and the headers of Python, then run the same command again:
  Debian, Ubuntu   sudo apt-get install gcc libc6-dev python3-dev
  Fedora, RHEL     sudo dnf install gcc python3-devel
  Alpine           sudo apk add gcc musl-dev python3-dev
  Arch             sudo pacman -S gcc"""

PACKAGE = "portd.kernel"
WARNINGS = ("-Wall", "-Wextra")

_PROGRAM = "#include <Python.h>\nint portd_probe(void) { return PY_MAJOR_VERSION; }\n"


class BuildExt(build_ext):
    """`build_ext` that uses all cores, and tells a machine without a compiler from a unit that does not compile."""

    def finalize_options(self) -> None:
        """Finds the units; compiles as many at once as there are cores, unless it was said how many."""
        entries: list[Any] = self.distribution.ext_modules or []
        if [entry.name for entry in entries] == [PACKAGE]:  # an editable install comes here again, with the units
            self.distribution.ext_modules = [*units(*entries[0].sources)]
        super().finalize_options()
        self.parallel = self.parallel or len(os.sched_getaffinity(0))

    def build_extensions(self) -> None:
        """Compiles every unit of the kernel.

        Raises:
            PlatformError: nothing can be compiled here; says what is missing.
        """
        flags = compiler_flags(os.environ.get("CFLAGS", ""), in_tree=bool(self.inplace or self.editable_mode))
        for unit in self.extensions:
            unit.extra_compile_args = [*unit.extra_compile_args, *flags]
        try:
            super().build_extensions()
        except (CCompilerError, ExecError, OSError) as error:
            missing = self._missing()
            if missing is None:
                raise  # a compiler works: the unit itself is at fault, and the compiler has said why
            raise PlatformError(f"portd's kernel is compiled, and {missing}\n{HOW}") from error

    def _missing(self) -> str | None:
        """What keeps a small program from being compiled; None when nothing does."""
        command: list[str] = list(self.compiler.compiler_so)
        if shutil.which(command[0]) is None:
            return f"there is no C compiler: {command[0]} is not on the PATH"
        if self._compiles(_PROGRAM):
            return None
        if self._compiles("int portd_probe(void) { return 0; }\n"):
            return f"the headers of Python are not where they should be: {sysconfig.get_path('include')}"
        return f"the C compiler does not work: {' '.join(command)}"

    def _compiles(self, program: str) -> bool:
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "probe.c")
            source.write_text(program)
            try:
                self.compiler.compile([str(source)], output_dir=directory, include_dirs=[sysconfig.get_path("include")])
            except (CCompilerError, ExecError, OSError):
                return False
        return True


def units(pattern: str) -> Iterator[Extension]:
    """The units of the kernel: one for each file that *pattern* finds.

    Each depends on every C header of the kernel: Cython does not look into them, and they seldom change.
    """
    headers = sorted(str(path) for path in Path(pattern).parent.glob("native/*.h"))
    for source in sorted(Path().glob(pattern)):
        yield Extension(f"{PACKAGE}.{source.stem}", [str(source)], depends=headers)


def compiler_flags(wanted: str, *, in_tree: bool) -> list[str]:
    """What every unit is compiled with behind CFLAGS, of which *wanted* is the text.

    A build *in_tree* (editable, or ``build_ext --inplace``) is a developer's: there a warning of the compiler is an error.
    Not so in a build from an archive, whose user has a compiler that nobody here has seen; ``CFLAGS=-Werror`` asks for
    it there, and ``CFLAGS=-Wno-error`` ends it in the tree. An ``-O`` in CFLAGS stands; otherwise it is ``-O3``.
    """
    words = wanted.split()
    flags = [] if any(word.startswith("-O") for word in words) else ["-O3"]
    flags += WARNINGS
    if in_tree and "-Wno-error" not in words:
        flags.append("-Werror")
    return flags
