"""Sessions of the protocols that bridges and devices both speak, not what they say."""
