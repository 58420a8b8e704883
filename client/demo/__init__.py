"""`make demo`: fifty devices live through a rotation, and the history proves what happened."""
