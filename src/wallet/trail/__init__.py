"""The audit trail: one row for each POST."""
