"""What every process needs: settings, logs, waits between rounds, failpoints."""
