"""Where sessions, runs and messages are kept. Two twins: `memory` and `sqlite`."""
