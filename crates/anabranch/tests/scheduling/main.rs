//! When a replica syncs, what it does when the server or the device does not want it to, and what it says meanwhile.

mod conditions;
mod failures;
mod large;
mod local_only;
mod parents;
mod sessions;
mod several;
mod stale;
mod support;
