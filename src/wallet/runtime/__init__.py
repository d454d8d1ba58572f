"""Code that every process uses: settings, logs, metrics, waits between rounds, and failpoints."""
