"""The run: recover, look, judge, plan, apply, verify, switch, confirm; and backwards."""
