"""The pure core: no clock, no random, no network, no environment."""
