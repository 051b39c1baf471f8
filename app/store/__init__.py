"""What the daemon keeps: one protocol, two databases behind it."""
