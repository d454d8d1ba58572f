"""The read side: balances, histories and totals, on connections of their own so that writes never wait for them."""
