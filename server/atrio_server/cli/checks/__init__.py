"""What `atrio doctor` looks at, a module for each kind of thing.

A check returns a `Finding` and prints nothing. It changes nothing either, but
for a probe file that it takes away again. Each is small, and none asks another.
"""
