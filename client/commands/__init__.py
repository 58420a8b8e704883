"""The commands of `fleetcert`, a module per subject; `client.cli` puts them together."""
