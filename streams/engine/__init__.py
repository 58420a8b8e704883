"""Faust at the speed of batches. Nothing of the domain is in here."""
