"""Claims of the papers behind the methods: decimation, scaling, filtering and state passing."""
