//! Scenario runner and launchers of real peers, for tests only.
