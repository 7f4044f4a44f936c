"""The Atrio wire protocol as data: no I/O, no clock, no logging."""
