"""What methods measure: losses on fixed samples, products of gradients, fitted curves."""
