"""The agent's way over CoAP: coaps+tcp, and coaps over UDP with DTLS 1.3."""
