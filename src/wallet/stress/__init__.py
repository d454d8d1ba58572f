"""`wallet monkey`: tests any wallet service through its HTTP routes, and shares no code with the other packages."""
