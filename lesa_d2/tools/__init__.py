"""Commands for people: analysis of the terms, benchmark, demo, doctor, export, reports."""
