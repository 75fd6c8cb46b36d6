"""Reads what `portd decode` writes back into the oracle's values."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.oracle import model

Told = dict[tuple[int, bytes], Any]


def text(value: str | dict[str, str]) -> bytes:
    """The bytes that a string of the output stands for."""
    return base64.b64decode(value["base64"], validate=True) if isinstance(value, dict) else value.encode()


def stream_id(shown: str) -> tuple[int, int]:
    """Milliseconds and sequence."""
    ms, seq = shown.split("-")
    return int(ms), int(seq)


def read_lines(output: bytes) -> tuple[Told, list[dict[str, Any]]]:
    """Values by (db, key) in plain form, and the lines that are not about elements."""
    told: Told = {}
    others: list[dict[str, Any]] = []
    for raw in output.splitlines():
        line = json.loads(raw)
        if "db" not in line or "record" in line:
            others.append(line)
            if "db" in line:
                told.setdefault((line["db"], text(line["key"])), [])
            continue
        value = told.setdefault((line["db"], text(line["key"])), [])
        value.append(_element(line))
    return told, others


def _element(line: dict[str, Any]) -> Any:
    kind = line["type"]
    if kind == "string":
        return text(line["value"])
    if kind in {"list", "array"}:
        return line["index"], text(line["value"])
    if kind == "set":
        return text(line["member"])
    if kind == "zset":
        return text(line["member"]), float(line["score"]) + 0.0  # JSON readers see no -0
    if kind == "hash":
        return text(line["field"]), text(line["value"]), line.get("fieldexpireat")
    assert kind == "stream", kind
    return stream_id(line["id"]), [(text(name), text(value)) for name, value in line["fields"]]


def expected(snapshot: model.Snapshot) -> Told:
    """The same of what the oracle knows."""
    return {(entry.db, entry.key): _expected(entry.value) for entry in snapshot.entries}


def _expected(value: Any) -> Any:  # noqa: PLR0911 - one for each type
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, model.ListValue):
        return list(enumerate(value.elements))
    if isinstance(value, model.SetValue):
        return sorted(value.members)
    if isinstance(value, model.ZsetValue):
        return sorted((member, score + 0.0) for member, score in value.scores.items())
    if isinstance(value, model.HashValue):
        return sorted((name, each, value.expires.get(name)) for name, each in value.fields.items())
    if isinstance(value, model.ArrayValue | model.StreamValue):
        return value
    assert isinstance(value, model.ModuleValue | model.NumberValue), value
    return []
