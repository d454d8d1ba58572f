"""`wallet monkey`: tests any wallet service from outside, and shares no code with the other packages."""
