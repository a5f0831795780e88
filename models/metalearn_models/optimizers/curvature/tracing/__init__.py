"""Functions as jaxprs: where a parameter is the kernel of a product, and what its inputs and output gradients are."""
