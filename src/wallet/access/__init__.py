"""Who may do what: API keys, scopes and wallet prefixes."""
