"""The `csp` command: arguments and printing. What it does is done by functions of the other folders."""
