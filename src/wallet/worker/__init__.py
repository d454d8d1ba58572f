"""Consumes events: analytics, fraud rules, notifications, dead letters."""
