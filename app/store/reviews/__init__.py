"""See `contract` for the verbs, `sqlite` and `postgres.sql` for what carries them out."""
