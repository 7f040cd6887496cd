"""A board of our own: pictures drawn by code, and a server that shows them as imageboards do."""
