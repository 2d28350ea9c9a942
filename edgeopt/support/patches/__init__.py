"""Functions of libraries that do the same in less time, each in a place of its own with the source that it stands for.

A patch is put in only where the library's own source is, to the character, what the patch was made from: any other version
keeps its own function, and the log says that conversions take longer. What is computed never changes: tests compare both.
"""

from edgeopt.support.patches.patch import Patch, in_place, kept_original, put_in, read_ahead

__all__ = ["Patch", "in_place", "kept_original", "put_in", "read_ahead"]
