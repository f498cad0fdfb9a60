//! What merged data means, on real files: conflicts as rows, deletions, references, rules, schema upgrades,
//! purging, and the schema that a space carries.

mod carried;
mod conflicts;
mod deletion;
mod evolution;
mod files;
mod fleet;
mod purge;
mod references;
mod rules;
mod server;
mod upgrade_apart;
