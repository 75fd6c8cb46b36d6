"""Builds the kernel, or says what to install so that it can be built.

Used by setuptools (`[tool.setuptools.cmdclass]`) when neither portd nor its dependencies are installed: only the
standard library and setuptools may be imported here.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path

from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

HOW = """HINT: install a C compiler and the headers of Python, then run the same command again:
  Debian, Ubuntu   sudo apt-get install gcc libc6-dev python3-dev
  Fedora, RHEL     sudo dnf install gcc python3-devel
  Alpine           sudo apk add gcc musl-dev python3-dev
  Arch             sudo pacman -S gcc"""

_PROGRAM = "#include <Python.h>\nint portd_probe(void) { return PY_MAJOR_VERSION; }\n"


class BuildExt(build_ext):
    """`build_ext` that uses all cores, and tells a machine without a compiler from a unit that does not compile."""

    def finalize_options(self) -> None:
        """Compiles as many units at once as there are cores, unless it was said how many."""
        super().finalize_options()
        self.parallel = self.parallel or len(os.sched_getaffinity(0))

    def build_extensions(self) -> None:
        """Compiles every unit of the kernel.

        Raises:
            PlatformError: nothing can be compiled here; says what is missing.
        """
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
