//! Changes, commits and handles: one test for each point of what is promised of them, on every cache.

mod at_once;
mod closures;
mod detached;
mod ended;
mod login;
mod merge_table;
mod stage;
mod stored_values;
mod under_way;
mod unknown;
