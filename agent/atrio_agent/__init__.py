"""The agent: sessions, runs, streams, models, tools and their store. No web stack."""
