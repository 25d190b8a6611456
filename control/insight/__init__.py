"""What the log knows: read-only answers about the past and the reasons of things."""
