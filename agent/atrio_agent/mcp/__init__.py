"""MCP servers of a workspace: their processes and connections, and their tools as tools of ours."""
