"""Calls of the core: how they are planned within a memory budget, prepared and made."""
