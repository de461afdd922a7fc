"""First experiments for a lab's own data: sizes by stated rules, written as commented YAML."""
