"""Hot functions of the kernel stay C: Cython's annotation may show no Python work in them but on paths that fail."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import portd.kernel

KERNEL = Path(portd.kernel.__file__).parent

# What runs for each key, element, command or reply. Names that are gone fail the test: bring the table up to date.
HOT = {
    "opcodes": "read_opcode _expire_ms _expire _freq _idle _select _resize",
    "keys": "run_decoder _head _key _string _keep_name _value _plan _begin _begin_string _begin_elements _told_bytes "
    "_is_empty_blob",
    "elements": "read_elements _tell write_score _binary_score _score_text read_cells read_node _expiry",
    "window": "take_in sum_window next_item packed_item next_number _room",
    "blob": "read_parts _unpack _tell_part open_blob _refill _need _cell take_cells _open_container close_container "
    "take_numbers",
    "decoder": "forget_key key_done end_value",
    "commands": "_is_expired _expiry plan string _plain_string _expire begin end _open_key raw",
    "elementcommands": "_open string_part element scored field _timed_field",
    "streamcommands": "entry entry_item entry_end",
    "writer": "open_command close_command",
    "stream": "_gather _take _take_as _unlink _take_whole _take_large _go_on _edit _begin_edit",
    "decide": "_kind_at_head _decide _decide_swap _decide_by_first _sets_expiry _may_name_ours _decide_ours _refuse _decide_by_rules _decide_by_fate "
    "_describe",
    "scan": "_scan_command _scan_empty _note_name _arguments _first_argument _row_at_head _layout",
    "keypositions": "is_key use_of may_be_key owned first_key find_keys _next _find _add",
    "slots": "slot_of",
    "prefixes": "longest",
    "rules": "_fits match",
    "mapping": "find meets",
    "rename": "_whole _key _begin _counts _count _number _flush _append _append_length",
    "project": "fate fate_of_large takes _mixed _across _becomes_ours _reach _reads_others",
    "arguments": "sets_expiry tells_entries_read _time_behind_key expires_before restores_before restores_relative",
    "piecebuffer": "line_ends skip append write_head write_argument write_word write_number _append_header "
    "_note_received received_at",
    "edit": "begin _write_beginning advance _pass_bytes _consume passes _next_argument _looks_at _look "
    "_look_at_set_option _look_at_getex_option _look_at_time postpone _keep_key _finish",
    "replies": "plain_end _feed _run _complete _read_number",
    "lzf": "lzf_whole reset run",
}

# Lines that may touch Python: they fail, they grow a buffer once, or they hold on to an extension type for a moment.
ALLOWED = (
    r"self\._(fail|unsupported)\(",
    r"self\.refuse\(",
    r"\braise\b",
    r"PyMem_(Realloc|Malloc)",
    r"^cdef PieceBuffer buffer = self\.buffer$",
    r"^cdef Projector projector = self\.projector$",
    r"^self\.(to|entry_to) = self\.\w+$",
    r"\b(keep|produced)\(self\.buffer",
    r"p = self\._(skip|join)\(p, end\)|return self\._skip\(",  # asks whether NULL was an error
    r"(not )?self\.(meta|slots)\b",  # is it empty? A look at its size
    r"len\(self\.meta\)",
    r'^self\.meta = b""$',
    r"\brewritten\b",  # a stream on its way to an older server
    r"\bmodule_name\(|not in self\.dialect\.modules",  # values of modules
)

LINE = re.compile(r'<pre class="cython line score-(\d+)"[^>]*>(.*)')
FUNCTION = re.compile(r"\s*(?:cdef|cpdef|def)\b[^=(]*?\b(\w+)\(")
INLINE = re.compile(r"^static CYTHON_INLINE [^;{]*?(__pyx_f_\w+)\([^;{]*\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
PYTHON_CALL = re.compile(r"\b((?:Py[A-Z_]|_Py|__Pyx_)\w+)\(")
HARMLESS = {"__Pyx_AddTraceback"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where C and annotations go."""
    return tmp_path_factory.mktemp("annotated")


def annotated(unit: str, folder: Path) -> tuple[list[tuple[int, int, str]], str]:
    """(line number, score, text) of each line of a unit, and the C that became of it."""
    out = folder / f"{unit}.c"
    command = [sys.executable, "-m", "cython", "-3", "--annotate", str(KERNEL / f"{unit}.pyx"), "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    lines = []
    for found in LINE.finditer(out.with_suffix(".html").read_text(encoding="utf-8")):
        text = html.unescape(re.sub(r"<[^>]+>", "", found[2]))
        numbered = re.match(r"\W*?(\d+): ?(.*)", text)
        assert numbered is not None, text
        lines.append((int(numbered[1]), int(found[1]), numbered[2]))
    return lines, out.read_text(encoding="utf-8")


def bodies(lines: list[tuple[int, int, str]]) -> dict[str, list[tuple[int, int, str]]]:
    """Lines of each function, without the line that begins it: its score is that of the way out after an error."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    current: list[tuple[int, int, str]] | None = None
    depth = 0
    for number, score, text in lines:
        indent = len(text) - len(text.lstrip())
        if (begun := FUNCTION.match(text)) and text.rstrip().endswith((":", "(")):
            current, depth = found.setdefault(begun[1], []), indent
        elif current is not None and text.strip() and indent <= depth and not text.strip().startswith(")"):
            current = None
        elif current is not None:
            current.append((number, score, text.strip()))
    return found


@pytest.mark.sampled(6)
@pytest.mark.parametrize("unit", HOT)
def test_hot_functions_do_not_touch_python(unit: str, folder: Path) -> None:
    """No line of a hot function has a score, unless it is one of those that may; nor has anything inlined into it."""
    lines, c = annotated(unit, folder)
    functions = bodies(lines)
    names = HOT[unit].split()
    assert [name for name in names if name not in functions] == [], "hot functions that are not there any more"
    touching = [
        f"{unit}.pyx:{number} {name}: {text}  (score {score})"
        for name in names
        for number, score, text in functions[name]
        if score and not any(re.search(pattern, text) for pattern in ALLOWED)
    ]
    touching += [
        f"{function}: {call}"
        for function, body in INLINE.findall(c)
        for call in sorted(set(PYTHON_CALL.findall(body)) - HARMLESS)
    ]
    assert touching == []
