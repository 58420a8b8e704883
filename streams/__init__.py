"""Workers: they fold the history into state and decide."""
