"""EST over HTTPS."""
