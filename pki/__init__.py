"""Certificates: authorities, requests, path validation, revocation lists, and the issuer."""
