"""The whole daemon in one process and in virtual time, with all that can go wrong, from one seed.

See docs/explanation/simulation.md. Nothing of `app` or of the library imports it.
"""
