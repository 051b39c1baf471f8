"""The parts of the HTTP API: serving, guarding, reading input, answering."""
