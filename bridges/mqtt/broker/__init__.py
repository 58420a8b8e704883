"""The broker: its configuration, and the plugin that says which certificate sent a message."""
