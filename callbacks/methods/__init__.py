"""Methods that set the domain weights, one file each."""
