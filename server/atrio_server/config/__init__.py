"""Configuration: flags, variables, the user's file and those of projects.

Here is what every command may import: nothing of it reads a file. Those that
do are `atrio_server.config.user` (the user's own) and
`atrio_server.config.workspace` (a project's, behind `atrio_server.config.trust`).
"""

from atrio_server.config.settings import ConfigError, McpServer, Settings, server_settings, state_dir_setting

__all__ = ["ConfigError", "McpServer", "Settings", "server_settings", "state_dir_setting"]
