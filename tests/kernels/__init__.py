"""Every kernel of `shaders/` against a float64 oracle, through the public Backend.

`oracles` says what a kernel computes, `case` what one dispatch is and how its result is judged,
`cases_*` make dispatches from shapes, `cases` lists them; the tests only run them.
"""
