"""The worker daemon: composition of `actp_supervise`, a store, agents and a web server."""
