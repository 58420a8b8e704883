"""Translators between the protocols of devices and the history in Kafka."""
