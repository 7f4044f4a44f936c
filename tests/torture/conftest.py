"""What the tests of this folder share with those over the wire."""

from wire.conftest import bench

__all__ = ["bench"]
