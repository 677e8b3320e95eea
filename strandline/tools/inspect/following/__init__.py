"""Going along with a log that grows: for `follow`.

tailing     what is new since the last look, in order
beginnings  what has to be known before: tables, the last operations
"""
