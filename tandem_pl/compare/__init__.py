"""`tandem compare`: methods and seeds under one budget."""
