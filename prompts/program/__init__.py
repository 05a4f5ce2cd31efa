"""`arbiter prompt exec -- PROGRAM`: a program decides, one run for each ask.

`reply` reads what it says (pure), `keeper` runs it.
"""
