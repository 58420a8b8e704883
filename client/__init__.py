"""The typed Python client of fleetcert, and the programs that stand on it."""
