"""The domain agents: asyncio code that does tasks by talking to Claude."""
