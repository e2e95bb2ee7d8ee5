"""The black-box suite: what the contract demands of any running CDV, seen through HTTP. Imports nothing of ours."""
