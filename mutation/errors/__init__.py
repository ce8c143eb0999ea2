"""The list of `planted.py`: mistakes that somebody could make, one file for each part of the library, and the examples."""

from . import examples, flows, metrics, passes, potentials, terms

ERRORS = potentials.ERRORS + flows.ERRORS + passes.ERRORS + terms.ERRORS + metrics.ERRORS + examples.ERRORS
