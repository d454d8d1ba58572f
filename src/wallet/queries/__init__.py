"""The read side: balances, histories and totals, on separate connections so that writes never wait for them."""
