"""Models: where text and tool calls come from. One module per provider."""
