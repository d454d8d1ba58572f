"""PostgreSQL: connections, sessions, leases, errors, statements, migrations, the embedded server."""
