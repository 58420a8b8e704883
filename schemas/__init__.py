"""The language of fleetcert: events, commands, decisions, rows, topics and their codec. No I/O."""
