"""Variables of the environment that clients read, and that ``[client]`` of a configuration file sets."""

CLIENT = {name: f"CROSSMEDIA_{name.upper()}" for name in ("tls_ca", "tls_cert", "tls_key", "tls_name", "token_file")}
