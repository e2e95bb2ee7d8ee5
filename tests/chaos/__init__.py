"""The service under load while it, or what it depends on, is killed, hung or cut off; then an audit of its promises."""
