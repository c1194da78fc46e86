"""The training loop, its phases and what watches over them."""
