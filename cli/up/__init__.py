"""`lobservatory up` and `lobservatory demo`: every part as a supervised process, with our configuration."""
