"""The paper's claims at small scale: suites of paired trainings, their measures, and the page made of them."""
