"""The section `iot.security`: what is spoken, and whom it lets in that nobody has registered.

Rules of this file: nothing below TLS 1.3 is spoken over TCP; without a CA named here, nobody of a
foreign one is let in.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from configuration.fields import ALL, COAP, DOORS, EST, ISSUER, Pem, Section, key


def _newest(value: Any) -> Any:
    if value in ("TLSv1", "TLSv1.0", "TLSv1.1", "TLSv1.2", "SSLv3"):
        raise ValueError(
            f"{value} is refused: below TLSv1.3 nothing is spoken; for older CoAP devices DTLS 1.2 "
            "is offered where it is named: iot.coap.dtls: [DTLSv1.3, DTLSv1.2]"
        )
    return value


def _each_once(values: list[str]) -> list[str]:
    if twice := sorted({one for one in values if values.count(one) > 1}):
        raise ValueError(f"{', '.join(twice)} stands there twice")
    return values


Suite = Literal["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"]
Version = Annotated[Literal["TLSv1.3"], BeforeValidator(_newest)]


class Tls(Section):
    """TLS, everywhere."""

    min_version: Version = key("TLSv1.3", "the oldest version that is spoken", restart=ALL)
    cipher_suites: Annotated[list[Suite], AfterValidator(_each_once)] = key(
        ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"],
        "what may be negotiated over TCP, the preferred first",
        restart=f"{DOORS}, {COAP}, {EST}",
        min_length=1,
    )
    cert_rotation: int = key(
        30,
        "certRotation.daysBeforeExpiry: when a certificate is renewed",
        "days before its end",
        ge=1,
        le=3_650,
    )


def _off(value: Any) -> Any:
    return "off" if value is False else value


JustInTime = Annotated[Literal["off", "automatic", "approval"], BeforeValidator(_off)]
"""YAML 1.1 reads a bare `off` as false."""


class Provisioning(Section):
    """Devices that nobody has registered, with a certificate of somebody else's CA."""

    ca: list[Pem] = key(
        [],
        "CAs whose certificates are good for enrolment, and for nothing else; none: nobody's",
        restart=f"{DOORS}, {COAP}, {ISSUER}",
        file=True,
    )
    just_in_time: JustInTime = key(
        "off",
        "unknown devices of these CAs: `off` are refused, `automatic` are registered, `approval` "
        "wait for `fleetcert device approve`",
    )
    pending_days: int = key(
        90,
        "how long somebody waits for approval; then the device must come again",
        "days",
        ge=1,
        le=3_650,
    )


class Security(Section):
    """Security."""

    tls: Tls = Field(default_factory=Tls)
    provisioning: Provisioning = Field(default_factory=Provisioning)
