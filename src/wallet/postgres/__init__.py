"""PostgreSQL: pool, transactions, statements, migrations, the embedded server."""
