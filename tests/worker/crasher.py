"""A module whose import crashes in native code."""

import ctypes

ctypes.string_at(0)
