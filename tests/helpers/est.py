"""Clients of EST and CoAP that others wrote, as commands: openssl, curl, libcoap."""

import subprocess
from pathlib import Path

from schemas.envelope import URN_PREFIX
from tests.helpers.stack import RunningStack


def csr(device_id: str, folder: Path) -> Path:
    """Make a new key and a request by openssl, in DER."""
    made = folder / "next.csr"
    command = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(folder / "next.key"), "-subj", f"/CN={device_id}"]
    command += ["-addext", f"subjectAltName=URI:{URN_PREFIX}{device_id}"]
    subprocess.run(
        [*command, "-outform", "DER", "-out", str(made)], check=True, capture_output=True
    )
    return made


def enrol(stack: RunningStack, device_id: str, token: str, request: Path) -> tuple[int, bytes]:
    """Ask for a first certificate by curl, with a token; return status and body."""
    body = subprocess.run(["openssl", "base64", "-in", str(request)], capture_output=True).stdout
    ca_file = stack.layout.pki_dir / "service-ca" / "ca.pem"
    command = ["curl", "-s", "--max-time", "25", "--cacert", str(ca_file), "-w", "\n%{http_code}"]
    command += ["-u", f"{device_id}:{token}", "-H", "Content-Type: application/pkcs10"]
    done = subprocess.run(
        [*command, "--data-binary", "@-", f"{stack.layout.est}/simpleenroll"],
        input=body,
        capture_output=True,
        check=True,
    )
    answer, _, status = done.stdout.rpartition(b"\n")
    return int(status), answer


def coap(stack: RunningStack, port: int, cert: Path, key: Path, path: str, *options: str) -> str:
    """Ask by libcoap over coaps+tcp; return what it printed."""
    ca_file = str(stack.layout.pki_dir / "service-ca" / "ca.pem")
    command = ["coap-client-gnutls", "-v", "6", "-B", "15", "-c", str(cert), "-j", str(key)]
    command += ["-C", ca_file, *options, f"coaps+tcp://localhost:{port}/{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    return done.stdout + done.stderr
