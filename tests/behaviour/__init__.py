"""What the library does with every input: a right value or a clear error, one row a case, on every backend.

`expected` has the table of promises, `catalogue` the bad input with the text of its errors, `peers` what other libraries
got wrong, `adversary` what was made up to break this one, `state` threads, processes and what must stay untouched, `files`
what can go wrong with a file, `arguments` every parameter of every public function with everything it may be confused with.
`engine` runs a case and says what came out. `python -m tests.behaviour` prints and records the figures.
"""
