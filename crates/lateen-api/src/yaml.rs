//! YAML text to trees.
