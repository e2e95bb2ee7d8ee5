"""The black-box suite: tests any running CDV against the contract, over HTTP only, without importing our packages."""
