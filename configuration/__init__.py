"""Configuration: one model of everything that a user can set, and its reading from all sources.

It knows none of our other packages: workers, bridges, the issuer and the local stack all read it.
"""
