"""The fault laboratory: experiments that break the system on purpose, and the proof that no money was harmed."""
