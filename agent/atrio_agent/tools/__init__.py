"""Tools: what the model may do in the workspace. One module per group, each with its `.md` texts."""
