"""What `--demo` and the tests run against: a simulated Claude."""
