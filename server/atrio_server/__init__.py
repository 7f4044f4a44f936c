"""The server around the agent: the door, the sockets, the workspaces, the command line."""
