"""Attacks on a whole server: what anybody can send to it, by the thousand."""
