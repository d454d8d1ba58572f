"""The fault laboratory: experiments that break the system on purpose, and a check that every promise was kept."""
