"""The suite proves itself: what it makes of implementations whose verdict is known beforehand."""
