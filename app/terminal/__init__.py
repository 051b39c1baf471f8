"""Commands that look at a running daemon, or ask something of it, by its HTTP API."""
