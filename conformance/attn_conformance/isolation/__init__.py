"""Isolation: targets in processes of their own, which may crash, hang, exit, flood and fill the memory."""
