"""Certificates for servers in tests, of this machine and nobody else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

_NAMES: Final = "subjectAltName=DNS:localhost,IP:127.0.0.1"


def certificate_in(folder: Path) -> tuple[str, str]:
    """A new self-signed certificate and its key: the paths of two PEM files. It is good for two days."""
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    files = ["-subj", "/CN=localhost", "-addext", _NAMES, "-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return certificate, key
