"""What `lobservatory up` and `lobservatory demo` start, supervise and stop."""
