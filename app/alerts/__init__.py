"""Who is told that the daemon is not well: by Telegram, and by all that `apprise` knows."""
