"""Networks that are made elsewhere: by a function in a user's file, or by transformers."""
