"""An event-driven wallet service: money moved exactly once, and a log that proves it."""
