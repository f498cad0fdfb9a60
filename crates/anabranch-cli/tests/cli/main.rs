//! The binary from outside: what it prints, what it leaves in the files, and how it fails.

mod commands;
mod demo;
mod durability;
mod identity;
mod killing;
mod meaning;
mod peers;
mod repair;
mod restored_servers;
mod secrets;
mod subsets;
mod support;
mod tokens;
mod two_terminals;
mod typing_trace;
