"""What nobody here wrote and is in Java: Kafka's own tools, Avro's, Californium, Bouncy Castle."""

import hashlib
import os
import subprocess
from pathlib import Path

from client.local import kafka

TOOLS = Path(__file__).resolve().parents[2] / "var" / "tools"
AVRO_TOOLS = "org.apache.avro:avro-tools:1.12.0"
PEERS = Path(__file__).resolve().parents[1]
QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8")
DOWNLOAD_SECONDS = 600
RUN_SECONDS = 60


def kafka_tool(name: str, *arguments: str, input: str) -> None:
    """Run one of Kafka's tools (`ConsoleProducer`) with a text as its input."""
    libs = kafka.install(TOOLS)
    _java("-cp", f"{libs}/*", f"org.apache.kafka.tools.{name}", *arguments, input=input.encode())


def avro_tool(name: str, *arguments: str, input: bytes) -> bytes:
    """Run one of Avro's tools (`fragtojson`); return what it prints."""
    return _java("-jar", str(_avro_tools()), name, *arguments, input=input)


def californium_peer() -> list[str]:
    """Return the command of a CoAP client on Californium (tests/californium)."""
    return _peer("californium")


def bouncy_castle_peer() -> list[str]:
    """Return the command of an EST client on Bouncy Castle (tests/bouncycastle)."""
    return _peer("bouncycastle")


def _peer(name: str) -> list[str]:
    """Return a client's command; built once, by Maven and Eclipse's javac.

    So a Java runtime is enough.
    """
    source = PEERS / name / "Peer.java"
    pom = source.with_name("pom.xml")
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in (source, pom))).hexdigest()
    folder = TOOLS / f"{name}-{digest[:16]}"
    if not folder.exists():
        fresh = folder.with_name(f"{name}-{os.getpid()}")
        command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={fresh}/libs"]
        subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)
        jars = os.pathsep.join(map(str, sorted(fresh.glob("libs/*.jar"))))
        (compiler,) = fresh.glob("libs/ecj-*.jar")
        command = ["-jar", str(compiler), "-17", "-proc:none", "-cp", jars]
        _java(*command, "-d", str(fresh / "classes"), str(source), input=b"")
        fresh.rename(folder)
    return ["java", *QUICK, "-cp", f"{folder}/classes{os.pathsep}{folder}/libs/*", "Peer"]


def _avro_tools() -> Path:
    """Return the jar; Maven fetches it once, and checks it."""
    folder = TOOLS / "avro"
    found = folder / "avro-tools-1.12.0.jar"
    if not found.exists():
        fresh = folder.with_name(f"avro-{os.getpid()}")
        command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={AVRO_TOOLS}"]
        command += [f"-DoutputDirectory={fresh}"]
        subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)
        fresh.rename(folder)
    return found


def _java(*arguments: str, input: bytes) -> bytes:
    done = subprocess.run(
        ["java", *QUICK, *arguments],
        input=input,
        capture_output=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
