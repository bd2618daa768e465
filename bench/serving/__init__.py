"""Parts of bench/serve_load.py, which tests of the server use too."""
