"""Tests over the wire: a real server on a real socket, seen as a client sees it."""
