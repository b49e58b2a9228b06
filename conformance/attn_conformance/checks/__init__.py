"""Checks: one function for each requirement, reading like its sentence; importing a module registers them."""
