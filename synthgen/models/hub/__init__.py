"""The Hugging Face hub: its repositories, and fetching from them into the cache of its client."""
