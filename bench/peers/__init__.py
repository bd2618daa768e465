"""The parts of bench/compare_peers. `workers` run in the environments of the peers and import nothing from here."""
