"""TLS for tests: certificates that are good for two days, and which servers speak it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.servers import PATIENCE_SECONDS, binaries

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Binary


def speaks_tls(binary: Binary) -> bool:
    """Whether a server is built with TLS: started without certificates none comes up, and only such a one misses them."""
    command = [binary.path, "--port", "0", "--tls-port", "1"]
    return (
        b"tls-cert-file" in subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS, check=False).stdout
    )


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1."""
    key, certificate = folder / "server.key", folder / "server.crt"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=portd",
    ]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    return key, certificate


def over_tls(folder: Path) -> tuple[Binary, Path, dict[str, str]]:
    """A server that speaks TLS, its certificate, and the settings that name its files; skips the test without one."""
    binary = next((each for each in binaries() if speaks_tls(each)), None)
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("no server with TLS, or no openssl")
    key, certificate = self_signed(folder)
    file = str(certificate)
    return binary, certificate, {"tls_cert_file": file, "tls_key_file": str(key), "tls_ca_cert_file": file}
