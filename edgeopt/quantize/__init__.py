"""Calibration, and one decision about integers for each program and target; also palettes and 2:4 sparsity."""
