"""The stress tool: random money for any wallet service with these routes, then a proof that none was lost.

It judges the service from outside, by HTTP alone, and shares no code with it: a judge that computes with the code it
judges makes the same mistakes.
"""
