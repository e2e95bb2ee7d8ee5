"""The service under load while it or a dependency is killed, hung or cut off; then an audit of acknowledged writes."""
