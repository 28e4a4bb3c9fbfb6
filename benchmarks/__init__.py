"""What docs/performance.md's figures come from: the built function, alone under the processor share of its memory size.

    make bench ARGS=--help

function.py  the measured process
share.py     its share of a processor
world.py     what it meets: Secrets Manager over HTTPS, some milliseconds away; PostgreSQL with TLS
measure.py   one rotation, and a fleet of them
page.py      the tables and the picture
"""
