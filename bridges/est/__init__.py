"""EST: enrolment over secure transport, RFC 7030 (HTTPS) and RFC 9148 (CoAP)."""
