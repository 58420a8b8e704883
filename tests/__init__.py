"""The tests of fleetcert."""
